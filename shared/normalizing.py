"""Calls of batch normalization, under whichever of PyTorch's names a network makes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

_AFTER_STATISTICS = ("training", "momentum", "eps")
# The functions that take the statistics of what they are given, and their arguments in order.
_ARGUMENTS: Mapping[Callable[..., Any], Sequence[str]] = {
    F.batch_norm: (
        *("input", "running_mean", "running_var", "weight", "bias"),
        *_AFTER_STATISTICS,
    ),
    torch.batch_norm: (
        *("input", "weight", "bias", "running_mean", "running_var"),
        *_AFTER_STATISTICS,
        "cudnn_enabled",
    ),
}


def batch_norm_arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return what a call of ``F.batch_norm`` or ``torch.batch_norm`` was given, by name.

    Args:
        function: What was called.
        args: By position.
        kwargs: By name.

    Returns:
        The names are those of ``F.batch_norm``; None for any other function.
    """
    names = _ARGUMENTS.get(function)
    if names is None:
        return None
    given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
    given.pop("cudnn_enabled", None)  # which kernel computes it
    return given
