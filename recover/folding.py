"""A faster teacher with the same answers: BatchNorm folded into the convolutions before it.

Which convolution a BatchNorm follows, a forward pass tells that is watched. What is folded is a
copy of the network itself, so that its own forward, with the caller's hooks and whatever it does by
its arguments, goes on computing; and in the end its answers are compared.
"""

import copy
from collections import Counter
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from shared.device import autocast
from shared.dispatch import DispatchMode
from shared.hooks import on_output
from shared.metrics import full_precision
from shared.tensors import tensors_in

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Of how far apart a network's logits are. In float32 folding moves them by 1e-6 to 1e-4 of that.
_SAME = 1e-3
_DEPARTURES = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)


def folded(network: nn.Module, inputs: Tensor, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a frozen copy in eval mode that gives the same answers, up to rounding, in less time.

    In eval mode a BatchNorm is a scale and a shift per channel, which the weights and the bias of
    the convolution before it can take over. Networks that would answer otherwise are copied as they
    are.

    Args:
        network: On any device.
        inputs: Some that it takes, ``(N, C, H, W)`` on its device, to find out by.
        dtype: What is to be computed in, as by autocast.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    try:
        watch = _Watch(network)
        expected = watch.answer(inputs)
        fast = copy.deepcopy(network)
        _fold(fast, watch.foldable())
        alike = _is_like(expected, fast, inputs, dtype)
    except Exception:  # noqa: BLE001  a forward may do anything; folding only saves time
        return network
    return fast if alike else network


class _Watch(DispatchMode):
    """A forward pass: what convolutions make, and what BatchNorms take.

    Unlike a trace it is of this thread alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network
        self._names = {module: name for name, module in network.named_modules()}
        self._calls: Counter[nn.Module] = Counter()
        self._made: dict[int, nn.Module] = {}  # by identity of an activation
        self._taken: list[tuple[int, nn.Module]] = []
        self._uses: Counter[int] = Counter()
        self._kept_alive: list[object] = []  # so that no identity is taken twice
        self._depends_on_values = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._kept_alive += [args, result]
        self._uses.update(id(tensor) for tensor in tensors_in((args, kwargs)))
        # Python is told a number, or a shape that values decide: other images may take another way
        # through the forward.
        self._depends_on_values |= not any(True for _ in tensors_in(result))
        self._depends_on_values |= _decides_shapes(func, args)
        return result

    def answer(self, inputs: Tensor) -> Tensor:
        """Return the network's answer, in full float32, and watch."""
        kinds = (*CONVOLUTIONS, _BatchNorm)
        handles = [
            on_output(module, partial(self._see, module))
            for module in self._names
            if isinstance(module, kinds) and not _has_hooks(module)
        ]
        try:
            with self, _Departures() as departures:
                answer = _answer(self._network, inputs, full_precision(inputs.device))
        finally:
            for handle in handles:
                handle.remove()
        self._depends_on_values |= departures.found
        return answer

    def _see(self, module: nn.Module, given: Tensor, output: Tensor) -> None:
        self._calls[module] += 1
        if isinstance(module, CONVOLUTIONS):
            self._made[id(output)] = module
        else:
            self._taken.append((id(given), module))

    def foldable(self) -> list[tuple[str, str]]:
        """Return the names of convolutions that feed a BatchNorm and nothing else, and of that."""
        if self._depends_on_values:
            return []
        pairs = [(self._made[made], norm, made) for made, norm in self._taken if made in self._made]
        return [
            (self._names[convolution], self._names[norm])
            for convolution, norm, made in pairs
            # Exact types: a subclass may do more with its weights. So may hooks: old weight_norm
            # computes the weight in one.
            if type(convolution) in CONVOLUTIONS
            and _has_statistics(norm)
            and self._calls[convolution] == self._calls[norm] == self._uses[made] == 1
            and self._uses_once(convolution)
            and self._uses_once(norm)
        ]

    def _uses_once(self, module: nn.Module) -> bool:
        """Tell whether nothing but one call of the module computes with its tensors."""
        return all(self._uses[id(each)] <= 1 for each in (*module.parameters(), *module.buffers()))


class _Departures(TorchFunctionMode):
    """Whether values leave PyTorch by ways that no operation is: as lists, or to NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found |= func in _DEPARTURES
        return func(*args, **(kwargs or {}))


def _decides_shapes(operation: Any, args: Any) -> bool:
    """Tell whether the shape of what an operation makes is that of its values."""
    if operation is torch.ops.aten.index.Tensor:  # by numbers it is not
        return any(each.dtype in (torch.bool, torch.uint8) for each in tensors_in(args[1]))
    return torch.Tag.dynamic_output_shape in operation.tags


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks)


def _has_statistics(module: nn.Module) -> bool:
    own = type(module).forward is _BatchNorm.forward
    return own and isinstance(module, _BatchNorm) and module.running_mean is not None


def _fold(network: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Let convolutions of ``network`` do what the BatchNorms after them did, in place."""
    modules = dict(network.named_modules())
    instead: dict[nn.Module, nn.Module] = {}
    for convolution, norm in pairs:
        before, after = modules[convolution], modules[norm]
        assert isinstance(before, CONVOLUTIONS)
        assert isinstance(after, _BatchNorm)
        instead[before], instead[after] = fuse_conv_bn_eval(before, after), nn.Identity()
    for parent in list(network.modules()):
        for name, child in parent._modules.items():  # under all of its names
            if child in instead:
                parent._modules[name] = instead[child]
    network.eval()


def _is_like(expected: Tensor, fast: nn.Module, inputs: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether a network answers as expected, but for rounding, and in ``dtype`` at all."""
    found = _answer(fast, inputs, full_precision(inputs.device))
    spread = (expected - expected.mean(1, keepdim=True)).abs().max()
    if not bool((found - expected).abs().max() <= _SAME * spread):
        return False
    if dtype == torch.float32:
        return True
    # A channel that hardly varied has a huge scale, which half precision may not hold.
    return bool(_answer(fast, inputs, autocast(inputs.device, dtype)).isfinite().all())


@torch.no_grad()
def _answer(network: nn.Module, inputs: Tensor, precision: AbstractContextManager[None]) -> Tensor:
    with precision:
        logits: Tensor = network(inputs.clone())  # some change what they get
    return logits.float()
