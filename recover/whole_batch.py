"""BatchNorm of a batch that is spread over processes: the statistics are those of all its rows.

PyTorch's SyncBatchNorm does the same, but on CUDA only, and by replacing the network's modules.
Here nothing of the network changes: while it runs, calls of PyTorch's ``batch_norm`` that would
take the statistics of their input are answered by one autograd function. So modules that derive
from BatchNorm keep whatever else they do. Those that take statistics otherwise are refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from shared.distributed import Group, digest_of
from shared.errors import ConfigError
from shared.normalizing import batch_norm_arguments
from shared.teacher import batch_norms


def whole_batch_statistics(group: Group) -> AbstractContextManager[object]:
    """Return a context in which BatchNorm in training mode sees the batch of all processes.

    Each holds some of its rows, which may be one alone; all call the same layers in the same order,
    in the forward pass and in the backward pass, which may be outside of the context. The gradients
    of scales and shifts are of the process's own rows, as those of all other parameters.
    """
    return nullcontext() if group.count == 1 else _WholeBatch(group)


def require_whole_batch(network: nn.Module, group: Group) -> None:
    """Check that what the BatchNorms remember is the same in all processes.

    Args:
        network: After a forward pass in :func:`whole_batch_statistics`; it was the same everywhere
            before.
        group: All processes, which call this together.

    Raises:
        ConfigError: Naming the first that is not: its forward takes statistics in its own way.
    """
    if group.count == 1:
        return
    for name, norm in batch_norms(network).items():
        if not group.agree(digest_of(_remembered(norm))):
            raise ConfigError(
                f"BatchNorm {name!r} of the student saw another batch in each of {group.count} "
                "processes: its class takes statistics without F.batch_norm or torch.batch_norm; "
                "use one process, or --bn-mode frozen"
            )


class _WholeBatch(TorchFunctionMode):
    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        call = batch_norm_arguments(function, args, kwargs)
        if call is not None and call.get("training"):
            return _batch_norm(self._group, **call)
        return function(*args, **(kwargs or {}))


def _batch_norm(
    group: Group,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,  # noqa: FBT001, FBT002  the signature is PyTorch's
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    assert training
    mean, var, num_values = _moments(group, input)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = var * (num_values / (num_values - 1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    outputs: Tensor = _Normalize.apply(input, weight, bias, mean, var, num_values, eps, group)
    return outputs


def _remembered(norm: nn.Module) -> Iterator[bytes]:
    for values in (norm.running_mean, norm.running_var):
        assert isinstance(values, Tensor)
        yield values.double().cpu().numpy().tobytes()  # bfloat16 is none of NumPy's


@torch.no_grad()
def _moments(group: Group, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance per channel over all processes, and of how many values.

    Each process's own are exact to their dtype; float64 then joins them without cancellation.
    """
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    scratch = torch.zeros(2, inputs.shape[1], dtype=dtype, device=inputs.device)
    own_mean, own_var = torch.batch_norm_update_stats(inputs, scratch[0], scratch[1], 0.0)
    mean, var = own_mean.double(), own_var.double()
    count = torch.full_like(mean[:1], inputs.numel() // inputs.shape[1])
    sums = torch.cat([count, count * mean, count * (var + mean * mean)])
    group.add_up([sums])
    num_values = sums[0]  # stays where it is: reading it would wait for the device
    mean, square = (sums[1:] / num_values).chunk(2)
    var = (square - mean * mean).clamp_(min=0)
    return mean.to(dtype), var.to(dtype), num_values


class _Normalize(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` where mean and variance depend on x, too."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        num_values: Tensor,
        eps: float,
        group: Group,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight, mean, var, num_values)
        ctx.facts = eps, group
        return F.batch_norm(inputs, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, var, num_values = ctx.saved_tensors
        eps, group = ctx.facts
        # As if the statistics were constants; Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.
        grad_inputs, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], inputs, weight, mean, var, None, None, False, eps, [True, True, True]
        )
        # What comes through them: the sums are over the whole batch.
        of_normalized, of_outputs = grad_weight.clone(), grad_bias.clone()
        group.add_up([of_normalized, of_outputs])
        inverse = torch.rsqrt(var + eps)
        scale = inverse if weight is None else inverse * weight
        slope = -scale * inverse * of_normalized / num_values
        offset = -scale * of_outputs / num_values
        # PyTorch 2.10 refuses an eps of 0; 1 + 1e-30 is 1.
        grad_inputs += F.batch_norm(
            inputs, mean, torch.ones_like(var), slope, offset, training=False, eps=1e-30
        )
        needed = [
            gradient if is_needed else None
            for gradient, is_needed in zip(
                (grad_inputs, grad_weight, grad_bias), ctx.needs_input_grad, strict=False
            )
        ]
        return *needed, None, None, None, None, None
