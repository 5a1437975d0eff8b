"""N of every M weights that a layer multiplies with neighbouring channels: what hardware skips.

Sparse tensor cores compute with 2 of every 4 weights along the input channels in half the time
(Mishra et al. 2021, arXiv:2104.08378). Which two, each group of four says by itself; everything
else is as with any sparsity: a curve over the steps, exact zeros.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from shared.errors import ConfigError, IncompatibleError
from shared.magnitude import prunable_weights

if TYPE_CHECKING:
    from recover.config import RecoverConfig

MOST = 64  # weights in a group; hardware has 4 or 8


def parse_pattern(text: str) -> tuple[int, int]:
    """Return N and M of ``N:M``.

    Raises:
        ConfigError: If it is none, or nothing or all of M weights would be kept.
    """
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
    kept, size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= kept < size <= MOST:
        raise ConfigError(
            f"--pattern: found {text!r}, expected N:M such as 2:4, the weights that are kept of "
            f"every M, N less than M, M at most {MOST}"
        )
    return kept, size


def patterned_layers(network: nn.Module, size: int, whole: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the prunable weights that consist of groups of ``size``.

    Those are not: weights whose input channels are no multiple of it, such as a first layer's or
    depthwise convolutions', and transposed convolutions'.

    Args:
        network: Any network.
        size: M.
        whole: Names of weights that are never pruned.
    """
    turned = {
        id(module.weight) for module in network.modules() if isinstance(module, _ConvTransposeNd)
    }
    return [
        name
        for name, weight in prunable_weights(network).items()
        if weight.shape[1] % size == 0 and id(weight) not in turned and name not in whole
    ]


def pattern_sparsity(network: nn.Module, pattern: str, whole: tuple[str, ...] = ()) -> float:
    """Return the fraction of all prunable weights that the pattern sets to zero.

    Raises:
        ConfigError: If it is no pattern.
        IncompatibleError: If no layer can have it.
    """
    kept, size = parse_pattern(pattern)
    weights = prunable_weights(network)
    names = patterned_layers(network, size, whole)
    if not names:
        raise IncompatibleError(
            f"--pattern {pattern}: no layer has a multiple of {size} input channels; expected "
            "convolutions or linear layers with that"
        )
    num_pruned = sum(weights[name].numel() for name in names) * (size - kept) // size
    return num_pruned / sum(weight.numel() for weight in weights.values())


@torch.no_grad()
def protect_best(
    network: nn.Module,
    scores: Mapping[str, Tensor],
    config: "RecoverConfig",
    whole: tuple[str, ...],
) -> None:
    """Make the N best of every M weights, and whole layers, score infinitely well, in place.

    Whatever is then pruned of the others, no group has fewer than N left; and if all of them are,
    none has more.

    Args:
        network: Has the weights that are scored.
        scores: Importance by weight, as :func:`recover.importance.importance` returns it.
        config: Its pattern.
        whole: Names of weights that are never pruned.
    """
    assert config.pattern is not None
    kept, size = parse_pattern(config.pattern)
    names = set(patterned_layers(network, size, whole))
    for name, score in scores.items():
        if name not in names:
            score.fill_(math.inf)
            continue
        groups = score.movedim(1, -1).unflatten(-1, (-1, size))
        # Stable: among equals the first, as everywhere.
        best = groups.argsort(dim=-1, descending=True, stable=True)[..., :kept]
        protected = groups.scatter(-1, best, math.inf)
        score.copy_(protected.flatten(-2).movedim(-1, 1))
