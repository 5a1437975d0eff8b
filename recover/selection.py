"""How alike student and teacher are where no real image can say: on varied held-out dreams.

Users without data must still tell which of two students is better. Agreement on held-out dreams
saturates, since a dream is an image that its teacher is sure of. So the dreams are made harder, as
training images are: flipped, shifted and mixed by CutMix (Yun et al. 2019, arXiv:1905.04899); and
the answers are compared as distributions, not as first choices alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recover.loss import bernoulli_divergence
from shared.augment import cutmix, random_flip, random_shift
from shared.seeding import generator

NUM_VARIED = 1024  # images; what the four judgments of a run cost more stays small
MOST_VARIANTS = 8  # of one dream: more of them say little that is new
_MIXED_TOGETHER = 64  # images that share a CutMix box
_DIGITS = 6  # what is beyond is rounding error of float32, not a difference of networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike a student's and the teacher's answers are, on images that neither was taught.

    Attributes:
        agreement_on_varied: Fraction with the same first choice.
        divergence: Mean KL divergence of the student's softmax from the teacher's, in nats; None
            where it is not finite.
        score: Mean overlap of both softmaxes, see :func:`overlap`; None where it is not finite.
        score_error: Standard error of the score, variants of one dream counting as one image.
    """

    agreement_on_varied: float
    divergence: float | None
    score: float | None
    score_error: float | None


def varied(images: Tensor) -> Tensor:
    """Return variants of the images, flipped, shifted and mixed; the same in every run.

    Neither a run's seed nor its augmentation decides them, so that runs can be compared.

    Args:
        images: uint8 ``(N, C, H, W)``, possibly none.

    Returns:
        uint8 ``(M, C, H, W)``: :data:`NUM_VARIED` images, evenly spread over the given ones, but
        at most :data:`MOST_VARIANTS` of each.
    """
    num_images = len(images)
    if num_images == 0:
        return images
    count = min(NUM_VARIED, MOST_VARIANTS * num_images)
    places = torch.arange(count)
    # Of more images than are wanted, every few-th; of fewer, all of them again and again.
    rows = places * num_images // count if num_images > count else places % num_images
    parts = images[rows].split(_MIXED_TOGETHER)
    return torch.cat([_vary(part, number) for number, part in enumerate(parts)])


def overlap(logits: Tensor, teacher_logits: Tensor, *, sigmoids: bool = False) -> Tensor:
    """Return how much of two softmaxes is common: ``sum_k min(p_k, q_k)``, one value per row.

    That is one minus their total variation distance: 1 for equal answers, 0 where one rules out
    what the other says. For answers that are sure of one class it is agreement. Of sigmoids it is
    the same for each finding, ``1 - |p - q|``, and of these the mean.

    Args:
        logits: Float ``(N, K)``.
        teacher_logits: Float ``(N, K)``.
        sigmoids: Whether the first logit is the 0 of none, and the others are findings.

    Returns:
        float32 ``(N,)`` in [0, 1].
    """
    if sigmoids:
        student, teacher = logits[:, 1:].float().sigmoid(), teacher_logits[:, 1:].float().sigmoid()
        return 1 - (student - teacher).abs().mean(1)
    student, teacher = logits.float().softmax(1), teacher_logits.float().softmax(1)
    return torch.minimum(student, teacher).sum(1).clamp(max=1)


def likeness(
    logits: Tensor, teacher_logits: Tensor, num_dreams: int, *, sigmoids: bool = False
) -> Likeness:
    """Return how alike the answers to :func:`varied` images are.

    Args:
        logits: The student's, float ``(M, K)``, at least one row.
        teacher_logits: Float ``(M, K)``, of the same images in the same order.
        num_dreams: How many dreams they are variants of.
        sigmoids: As for :func:`overlap`.
    """
    divergence = divergence_of(logits, teacher_logits, sigmoids=sigmoids).mean()
    common = overlap(logits, teacher_logits, sigmoids=sigmoids)
    spread = common.std(correction=0) / math.sqrt(max(min(num_dreams, len(common)), 1))
    return Likeness(
        agreement_on_varied=float((logits.argmax(1) == teacher_logits.argmax(1)).float().mean()),
        # Of nearly equal answers rounding can leave a little less than nothing.
        divergence=_finite(divergence.clamp(min=0)),
        score=_finite(common.mean()),
        score_error=_finite(spread),
    )


def divergence_of(logits: Tensor, teacher_logits: Tensor, *, sigmoids: bool) -> Tensor:
    """Return the KL divergence of the student's answers from the teacher's: float32 ``(N,)``."""
    if sigmoids:
        return bernoulli_divergence(logits, teacher_logits)
    student = logits.float().log_softmax(1)
    teacher = teacher_logits.float().log_softmax(1)
    return (teacher.exp() * (teacher - student)).sum(1)


def _vary(images: Tensor, number: int) -> Tensor:
    draws = generator(0, "selection", number)
    flipped = random_flip(images, draws)
    # As far as in training by default: RecoverConfig.resolve.
    return cutmix(random_shift(flipped, min(images.shape[2:]) // 8, draws), draws)


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return round(number, _DIGITS) if math.isfinite(number) else None
