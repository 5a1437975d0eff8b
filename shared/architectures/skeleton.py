"""Networks without memory: built on the ``meta`` device, to compare names and shapes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset(
    {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.normal}
)
# What initialisers call; without values there is nothing to do, and PyTorch does it in Python.
_FILLERS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_})


class _OnMeta(TorchFunctionMode):
    """Sends the memory of parameters and buffers to ``meta``, and nothing else.

    Unlike ``with torch.device("meta")`` it lets constructors compute with small tensors
    (``arange``, ``linspace(...).item()``), as RegNet, ShuffleNet and EfficientNet do.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES:
            kwargs["device"] = "meta"
        elif func in _FILLERS and args[0].is_meta:
            return args[0]
        elif getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)  # nothing to initialise
        return func(*args, **kwargs)


def build_skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Return what ``build`` returns, with the parameters and buffers on the ``meta`` device."""
    with _OnMeta():
        return build()


def build_for_names(build: Callable[[], nn.Module]) -> nn.Module:
    """Return what ``build`` returns, to read names and shapes: without memory where that works.

    Somebody's constructor may compute with what it makes (``.item()``, ``.numpy()``).
    """
    try:
        return build_skeleton(build)
    except Exception:  # noqa: BLE001  whatever it is, it is raised again if it is not the memory
        return build_in_memory(build)


def build_in_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """Return what ``build`` returns, on the CPU; the global random stream goes on as if it did not.

    Its buffers and plain attributes have the values that its constructor gave them. Tensors among
    the attributes become buffers that no state dict has: they go to another device or dtype with
    the network.
    """
    with torch.random.fork_rng(devices=()):
        network = build().cpu()
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not hasattr(type(module), name):
                delattr(module, name)
                module.register_buffer(name, value.detach().cpu(), persistent=False)
    return network


def has_values_of_its_own(network: nn.Module) -> bool:
    """Tell whether a network has buffers that no checkpoint holds: a skeleton's have no values."""
    names = network.state_dict().keys()
    return any(name not in names for name, _ in network.named_buffers())


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return name and module of the first convolution in module order: the one images enter."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    return None


def set_input_channels(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution, where needed, by one for ``in_channels`` channels.

    Not where its weight is computed from other tensors, as with a weight norm: those would be gone.
    """
    found = first_convolution(network)
    if found is None or found[1].in_channels == in_channels:
        return
    name, old = found
    if old._parameters.get("weight") is None:
        return
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        groups=old.groups,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    network.set_submodule(name, new)
