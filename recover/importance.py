"""How much each prunable weight matters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recover.config import RecoverConfig
from shared.magnitude import prunable_weights as prunable_weights  # others look for it here
from shared.seeding import generator

PRUNED = -1.0  # below every magnitude: what is pruned stays pruned


@torch.no_grad()
def magnitudes(network: nn.Module, kept: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the absolute value of every prunable weight, float32, in the weights' shapes.

    Args:
        network: Any network.
        kept: Masks in force (True = kept). Weights outside them score :data:`PRUNED`, less than
            any other, even one that happens to be zero.
    """
    scores = {
        name: weight.detach().abs().float() for name, weight in prunable_weights(network).items()
    }
    return _without_pruned(scores, kept)


def random_importance(
    network: nn.Module, seed: int, kept: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return a random score in [0, 1) for every prunable weight, float32: the control experiment.

    The scores depend on the seed and the weight's name alone, so that masks chosen at one step of
    a gradual run contain those of the next, on any device.

    Args:
        network: Any network.
        seed: Of the draws.
        kept: As for :func:`magnitudes`.
    """
    scores = {}
    for name, weight in prunable_weights(network).items():
        draws = torch.rand(weight.shape, generator=generator(seed, "importance", name))
        scores[name] = torch.empty_like(weight, dtype=torch.float32, requires_grad=False)
        scores[name].copy_(draws)
    return _without_pruned(scores, kept)


def fisher_importance(
    network: nn.Module,
    squared_gradients: Mapping[str, Tensor],
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return ``|w| sqrt(E[g^2])`` of every prunable weight, float32: the order of ``w^2 E[g^2]``.

    A BatchNorm behind a convolution takes the length out of the weights of an output channel, so
    that their gradient is orthogonal to them: of ``n`` weights alike ``1 - 1 / n`` of its energy
    is left, of a single one nothing, although the channel dies with it. So ``E[g^2]`` is divided by
    ``1 - 1 / n``, and a channel's last weight has the mean of its layer's others.

    Args:
        network: Any network.
        squared_gradients: Of every prunable weight, see :mod:`recover.curvature`.
        kept: As for :func:`magnitudes`.
    """
    scores = {}
    for name, score in magnitudes(network).items():
        squares = squared_gradients[name].float()
        if kept is not None and name in kept and score.dim() > 2:
            squares = _unprojected(squares, kept[name])
        scores[name] = score * squares.sqrt()
    return _without_pruned(scores, kept)


def importance(
    network: nn.Module,
    config: RecoverConfig,
    kept: Mapping[str, Tensor] | None = None,
    squared_gradients: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the scores that ``config.importance`` names.

    Args:
        network: Any network.
        config: Says which.
        kept: As for :func:`magnitudes`.
        squared_gradients: As for :func:`fisher_importance`; before there are any, magnitudes stand
            in for it.
    """
    if config.importance == "random":
        return random_importance(network, config.seed, kept)
    if config.importance == "fisher" and squared_gradients is not None:
        return fisher_importance(network, squared_gradients, kept)
    return magnitudes(network, kept)


def _without_pruned(
    scores: dict[str, Tensor], kept: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    for name, mask in (kept or {}).items():
        scores[name].masked_fill_(~mask, PRUNED)
    return scores


def _unprojected(squares: Tensor, kept: Tensor) -> Tensor:
    """Return mean squared gradients as if no BatchNorm took the length out of the weights."""
    in_channel = kept.flatten(1).sum(1).view(-1, *[1] * (kept.dim() - 1))
    squares = squares / (1 - 1 / in_channel.clamp(min=2))
    others = kept & (in_channel > 1)
    count = others.sum()
    usual = torch.where(count > 0, squares.where(others, 0).sum() / count.clamp(min=1), 1.0)
    return squares.where(in_channel != 1, usual)
