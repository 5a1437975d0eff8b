"""The terms of the inversion objective, each with its source; sums and weights included.

Unlike the papers' scripts, the default BatchNorm term is averaged over channels and layers, so
that one weight serves every architecture (with sums, a weight that suits ResNet-18 fails on
ResNet-50: docs/method.md).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamforge.bn_stats import BatchStats
from dreamforge.config import SynthesisConfig
from shared.errors import CheckpointError

EPSILON = 1e-5  # BatchNorm's own default; keeps channels that never fire from dominating
IMPOSSIBLE = -1e4  # a logit of probability 0, whose gradient is 0 and not NaN


def objective(
    config: SynthesisConfig,
    inputs: Tensor,
    logits: Tensor,
    targets: Tensor,
    stats: Sequence[BatchStats],
    opponent_logits: Sequence[Tensor] = (),
    *,
    sigmoids: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum and its unweighted terms.

    Args:
        config: Weights and kinds of the terms. A term of weight 0 is not computed.
        inputs: Normalised ``(N, C, H, W)``, float32, as the network saw them.
        logits: ``(N, K)``, any float dtype.
        targets: Classes, int64 ``(N,)``, or their probabilities, float32 ``(N, K)``.
        stats: One per BatchNorm call.
        opponent_logits: The opponents' answers, each ``(N, K)``; with none nothing competes.
        sigmoids: Whether classes from 1 on are findings, see :func:`finding_loss`.

    Returns:
        A scalar float32 and detached scalars by name: ``class``, ``diversity``, ``competition``,
        ``bn``, ``tv``, ``l2``.
    """
    terms: dict[str, tuple[float, Tensor]] = {}
    if config.class_weight:
        if config.class_loss == "entropy":
            value = entropy(logits.float())
        elif sigmoids:
            value = finding_loss(logits.float(), targets)
        else:
            value = F.cross_entropy(logits.float(), targets)
        terms["class"] = config.class_weight, value
    if config.diversity_weight:
        labels = targets if targets.dim() == 1 else targets.argmax(1)
        terms["diversity"] = config.diversity_weight, sameness(logits.float(), labels)
    if config.competition_weight and opponent_logits:
        temperature = config.opponent_temperature
        agreements = [competition(logits, other, temperature) for other in opponent_logits]
        terms["competition"] = config.competition_weight, torch.stack(agreements).mean()
    if config.bn_weight:
        distance = bn_kl if config.bn_distance == "kl" else bn_l2
        terms["bn"] = config.bn_weight, distance(stats, config.first_bn_multiplier)
    if config.tv_weight:
        terms["tv"] = config.tv_weight, total_variation(inputs, config.image_norm)
    if config.l2_weight:
        terms["l2"] = config.l2_weight, l2(inputs, config.image_norm)
    total = torch.zeros((), device=inputs.device)
    for weight, value in terms.values():
        total = total + weight * value
    return total, {name: value.detach() for name, (_, value) in terms.items()}


def finding_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return how far each answer is from its finding, in nats, where others may be there, too.

    ``-ln sigmoid(z_k)`` for finding k: what else such an image shows is left to the network's
    memory of what comes together. For class 0, none, ``ln(1 + sum_j exp z_j)``: no finding at all.
    The cross-entropy of a softmax over ``(0, z)`` where there is a single finding.

    Args:
        logits: float32 ``(N, 1 + C)``, the first of them 0.
        targets: int64 ``(N,)``, 0 to C.

    Returns:
        A scalar, the mean over the images.
    """
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return torch.where(targets == 0, logits.logsumexp(1), F.softplus(-chosen)).mean()


def entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy, in nats, of the answers to float32 ``(N, K)`` logits.

    The class term of Tripurwar et al. 2025 (arXiv:2511.20702): any confident answer will do.
    """
    log_probabilities = logits.log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1).mean()


def competition(teacher_logits: Tensor, opponent_logits: Tensor, temperature: float) -> Tensor:
    """Return how much two networks agree: 1 where they answer the same, 0 where the opposite.

    ``1 - JS(p, q) / ln 2``, averaged over the images, with the Jensen-Shannon divergence of the
    answers ``p`` and ``q`` at ``temperature``: R_compete of Yin et al. 2020 (arXiv:1912.08795).
    Unlike there, the divergence is divided by its maximum. A scalar float32; gradients flow into
    both arguments.

    Args:
        teacher_logits: ``(N, K)``, any float dtype.
        opponent_logits: Likewise.
        temperature: Above 0.
    """
    p = (teacher_logits.float() / temperature).log_softmax(1)
    q = (opponent_logits.float() / temperature).log_softmax(1)
    middle = torch.logaddexp(p, q) - math.log(2)
    divergence = p.exp() * (p - middle) + q.exp() * (q - middle)
    return 1 - divergence.sum(1).mean() / (2 * math.log(2))


def sameness(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how alike the dreams of a class are in what else they resemble, from 0 to 1.

    What a network answers beyond the label is what distillation teaches (non-target knowledge,
    Zhao et al. 2022, arXiv:2203.08679). 1 where all dreams of a class share one distribution over
    the other classes; 0 where each resembles a single other class, and all of these equally
    often. That is one minus the mutual information between dream and runner-up (Krause et al.
    2010), ``H(mean p) - mean H(p)`` within each class, over its maximum ``ln(K - 1)``.

    Args:
        logits: float32 ``(N, K)``.
        labels: int64 ``(N,)``; a class with a single dream counts as 1.

    Returns:
        A scalar float32; constant for two classes, which have only one runner-up each.
    """
    num_images, num_classes = logits.shape
    members = F.one_hot(labels, num_classes).to(logits.dtype)
    others = logits.masked_fill(members.bool(), IMPOSSIBLE).log_softmax(1)
    single = -(others.exp() * others).sum(1).mean()
    sizes = members.sum(0)
    mean = members.T @ others.exp() / sizes.clamp_min(1).unsqueeze(1)
    joint = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum(1)
    information = (sizes * joint).sum() / num_images - single
    return 1 - information / math.log(max(2, num_classes - 1))


def bn_kl(stats: Sequence[BatchStats], first_multiplier: float = 1.0) -> Tensor:
    """Distance between a batch's statistics and those the teacher remembers, 0 when equal.

    Per channel the KL divergence, in nats, of the Gaussian that the batch shows from the one that
    the BatchNorm remembers; the mean over a layer's channels, then over the layers. A scalar
    float32, at least 0, of the same size whatever the network's depth and width.

    Raises:
        CheckpointError: If ``stats`` is empty: there is no BatchNorm to invert.
    """
    mean, var, running_mean, running_var = _concatenated(stats)
    var, running_var = var + EPSILON, running_var + EPSILON
    divergence = (running_var / var).log() + (var + (mean - running_mean).square()) / running_var
    weights = torch.cat(
        [
            torch.full_like(layer.mean, (1.0 if number else first_multiplier) / layer.mean.numel())
            for number, layer in enumerate(stats)
        ]
    )
    return ((divergence - 1) / 2 * weights).sum() / len(stats)


def bn_l2(stats: Sequence[BatchStats], first_multiplier: float = 1.0) -> Tensor:
    """Sum over layers of ``||mean - running_mean|| + ||var - running_var||``, unsquared.

    R_feature of Yin et al. 2020 (arXiv:1912.08795), as their scripts compute it. A scalar float32.

    Raises:
        CheckpointError: If ``stats`` is empty: there is no BatchNorm to invert.
    """
    _concatenated(stats)
    total = torch.zeros((), device=stats[0].mean.device)
    for number, layer in enumerate(stats):
        distance = torch.linalg.vector_norm(layer.mean - layer.running_mean)
        distance = distance + torch.linalg.vector_norm(layer.var - layer.running_var)
        total = total + (distance if number else first_multiplier * distance)
    return total


def total_variation(inputs: Tensor, norm: str) -> Tensor:
    """Return how much neighbouring values of ``(N, C, H, W)`` differ; 0 for constant images.

    ``mean-square``: mean squared difference, vertical plus horizontal. ``l2``: Frobenius norms of
    the four difference images (also both diagonals) of the whole batch, as in Yin et al. 2020.
    ``l1``: sum of absolute vertical and horizontal differences.
    """
    vertical = inputs[:, :, 1:, :] - inputs[:, :, :-1, :]
    horizontal = inputs[:, :, :, 1:] - inputs[:, :, :, :-1]
    if norm == "mean-square":
        return vertical.square().mean() + horizontal.square().mean()
    if norm == "l1":
        return vertical.abs().sum() + horizontal.abs().sum()
    falling = inputs[:, :, 1:, 1:] - inputs[:, :, :-1, :-1]
    rising = inputs[:, :, :-1, 1:] - inputs[:, :, 1:, :-1]
    differences = (vertical, horizontal, falling, rising)
    return torch.stack([torch.linalg.vector_norm(each) for each in differences]).sum()


def l2(inputs: Tensor, norm: str) -> Tensor:
    """Return the size of ``(N, C, H, W)`` inputs: their mean square, or the batch's L2 norm."""
    return inputs.square().mean() if norm == "mean-square" else torch.linalg.vector_norm(inputs)


def _concatenated(stats: Sequence[BatchStats]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not stats:
        raise CheckpointError(
            "no BatchNorm layer of the network was called, expected one that sees the images; call "
            "the layers themselves, not F.batch_norm with their tensors"
        )
    mean, var, running_mean, running_var = (
        torch.cat(column) for column in zip(*stats, strict=True)
    )
    return mean, var, running_mean, running_var
