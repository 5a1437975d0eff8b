"""How the weights that are kept spread over the layers.

Two ways compare all weights of the network: by importance (``global``), or by importance relative
to the layer's more important weights (``lamp``: Lee et al. 2021, arXiv:2010.07611, who rescale
magnitudes): then no layer loses its last weight before all others are down to theirs. Two say
beforehand how many each layer keeps: the same share (``uniform``), or shares by the layer's
dimensions (``erk``: Evci et al. 2020, arXiv:1911.11134).
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from recover.config import RecoverConfig
from recover.importance import PRUNED, importance, prunable_weights
from recover.masks import Masks, global_masks, layerwise_masks, num_weights_kept
from recover.pattern import protect_best
from shared.errors import ConfigError

_WHOLE = 2**61  # a layer's squares add up to this in integers: the sum stays below 2^63


@torch.no_grad()
def choose_masks(
    network: nn.Module,
    config: RecoverConfig,
    sparsity: float,
    kept: Mapping[str, Tensor] | None = None,
    squared_gradients: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Return which weights of ``network`` the config's importance and allocation keep.

    Exactly ``round((1 - sparsity) N)`` of all ``N`` prunable weights are kept, those in layers that
    are never pruned included; or all that are not pruned yet, where these are fewer.

    Args:
        network: Any network with prunable weights.
        config: Says how; its own sparsity is the final one.
        sparsity: Of these masks, at most ``config.sparsity``.
        kept: Masks in force (True = kept): what they prune stays pruned.
        squared_gradients: As for :func:`recover.importance.importance`.

    Raises:
        ConfigError: As :func:`whole_layers`.
    """
    scores = importance(network, config, kept, squared_gradients)
    whole = whole_layers(network, config)
    if config.allocation in ("uniform", "erk"):
        return layerwise_masks(scores, _counts(scores, whole, config.allocation, sparsity))
    if config.allocation == "lamp":
        scores = {name: lamp_scores(score) for name, score in scores.items()}
    for name in whole:
        scores[name].fill_(math.inf)
    if config.pattern is not None:
        protect_best(network, scores, config, whole)
    return global_masks(scores, sparsity)


def whole_layers(network: nn.Module, config: RecoverConfig) -> tuple[str, ...]:
    """Return the names of the prunable weights that the config says never to prune.

    Raises:
        ConfigError: If a pattern of ``--keep`` names no prunable weight, or if these weights alone
            are more than the config's sparsity leaves.
    """
    sizes = {name: weight.numel() for name, weight in prunable_weights(network).items()}
    names = list(sizes)
    chosen = {*names[:1]} if config.keep_first else set()
    chosen |= {*names[-1:]} if config.keep_last else set()
    for pattern in _patterns(config.keep):
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            examples = " or ".join(dict.fromkeys((*names[:1], *names[-1:])))
            raise ConfigError(
                f"--keep: found {pattern!r}, expected a pattern of the names of prunable tensors, "
                f"such as {examples}; recover prune lists them"
            )
        chosen.update(matches)
    num_whole = sum(sizes[name] for name in chosen)
    num_kept = num_weights_kept(sum(sizes.values()), config.sparsity)
    if num_whole > num_kept:
        raise ConfigError(
            f"--sparsity {config.sparsity:g}: found {num_whole:,} weights in the layers to keep, "
            f"expected at most the {num_kept:,} that are left; keep fewer layers, or prune less"
        )
    return tuple(name for name in names if name in chosen)


def lamp_scores(magnitudes: Tensor) -> Tensor:
    """Return every score's square over the sum of the squares of those no smaller, float64.

    Lee et al. 2021 (arXiv:2010.07611). Unlike there, where equal weights follow each
    other in some order, equal weights have equal scores, each counting all of them.

    Args:
        magnitudes: Of one layer's weights, any shape; negative (:data:`PRUNED`) where pruned.

    Returns:
        In [0, 1] up to rounding (1e-12), in the order of the magnitudes; :data:`PRUNED` where they
        are. Zeros score 0.
    """
    values, places, counts = magnitudes.double().unique(return_inverse=True, return_counts=True)
    squares = values.clamp(min=0).square()
    squares /= (squares * counts).sum().clamp(min=torch.finfo(torch.float64).tiny)
    # Added up as integers: a GPU adds in no fixed order, which would change sums of floats.
    shares = (squares * counts * _WHOLE).round().long()
    no_smaller = shares.flip(0).cumsum(0).flip(0)
    scores = (squares * _WHOLE / no_smaller.clamp(min=1)).where(values >= 0, PRUNED)
    return torch.empty_like(magnitudes, dtype=torch.float64).copy_(scores[places])


def proportional_counts(
    total: int, parts: Mapping[str, int], room: Mapping[str, int]
) -> dict[str, int]:
    """Return whole numbers that add up to ``total``, as close to proportional as they can be.

    Who would get more than there is room for gets just that, and the others share the rest. The
    shares are rounded by largest remainder: all down, then one up each for those that lost most,
    among equals the first. Integers throughout, so nothing depends on floating point.

    Args:
        total: At most the room of all together.
        parts: What the numbers are proportional to, positive.
        room: The most that each may get.
    """
    assert total <= sum(room.values()), f"{total} do not fit into {sum(room.values())}"
    counts: dict[str, int] = {}
    free, left = dict(parts), total
    while full := [name for name in free if left * free[name] >= room[name] * sum(free.values())]:
        for name in full:
            counts[name] = room[name]
            left -= room[name]
            del free[name]
    whole = sum(free.values())
    counts |= {name: left * part // whole for name, part in free.items()}
    by_loss = sorted(free, key=lambda name: -(left * free[name] % whole))
    for name in by_loss[: total - sum(counts.values())]:
        counts[name] += 1
    return {name: counts[name] for name in parts}


def _counts(
    scores: Mapping[str, Tensor], whole: tuple[str, ...], allocation: str, sparsity: float
) -> dict[str, int]:
    """Return how many weights each layer keeps; never more than are not pruned yet."""
    sizes = {name: score.numel() for name, score in scores.items()}
    # ERK: density proportional to sum(dims) / prod(dims), hence counts to sum(dims).
    parts = {
        name: sizes[name] if allocation == "uniform" else sum(score.shape)
        for name, score in scores.items()
        if name not in whole
    }
    room = {name: int((scores[name] > PRUNED).sum()) for name in parts}
    counts = {name: sizes[name] for name in whole}
    left = num_weights_kept(sum(sizes.values()), sparsity) - sum(counts.values())
    # A student to start from may have more zeros than it was pruned to: a dead channel's weights.
    return counts | proportional_counts(min(left, sum(room.values())), parts, room)


def _patterns(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
