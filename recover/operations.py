"""What PyTorch's operations do to channels, by the names that they have below all modules."""

from collections.abc import Mapping, Sequence
from typing import Any

# One number in, one number out: what a channel is, it stays.
_POINTWISE_NAMES = (
    "relu relu6 hardtanh hardswish hardsigmoid sigmoid silu gelu tanh leaky_relu elu celu selu "
    "mish softplus threshold clamp clamp_min clamp_max abs neg sqrt rsqrt exp log square "
    "reciprocal pow clone detach alias lift_fresh _to_copy hardshrink softshrink erf"
)
# Within channels: what is next to what, or an average of it.
_SPATIAL_NAMES = (
    "max_pool2d_with_indices mkldnn_max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d reflection_pad2d replication_pad2d "
    "constant_pad_nd slice expand"
)
# New tensors that owe another nothing but its shape or dtype.
MAKING = frozenset(
    ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "empty_like")
)
POINTWISE_OR_SPATIAL = frozenset(f"{_POINTWISE_NAMES} {_SPATIAL_NAMES}".split())
REDUCING = frozenset(("mean", "sum", "amax", "amin", "var", "std"))
RESHAPING = frozenset(("view", "_unsafe_view", "_reshape_copy", "squeeze", "unsqueeze"))


def keeps_channels(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a reduction names its dimensions, and neither batch nor channels among them."""
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    listed = [dims] if isinstance(dims, int) else list(dims or ())
    return bool(listed) and all(dim % args[0].dim() > 1 for dim in listed)
