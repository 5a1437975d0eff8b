"""What a network answers, and how often two answers are the same."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shared.device import to_device
from shared.errors import CheckpointError
from shared.images import to_pixels
from shared.process_wide import ProcessWide
from shared.spec import TeacherSpec

_PIXELS_PER_BATCH = 2**24  # times channels; about a gigabyte of activations in a ResNet
_MAX_BATCH = 1024
_CONVOLUTION: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
_IEEE = ProcessWide(
    lambda: _CONVOLUTION.fp32_precision,
    lambda value: setattr(_CONVOLUTION, "fp32_precision", value),
    needed="ieee",
)


def predict(
    network: nn.Module,
    images: Tensor,
    spec: TeacherSpec,
    device: torch.device,
    batch_size: int | None = None,
) -> Tensor:
    """Return the network's logits in evaluation mode, in full float32.

    Args:
        network: Takes inputs normalised as ``spec`` says, on ``device``; left in the mode it was
            in.
        images: uint8 ``(N, C, H, W)`` on any device.
        spec: Its mean and std are used.
        device: Where the network is.
        batch_size: Images at once; by default as many as fit comfortably.

    Returns:
        float32 ``(N, K)`` on the device of ``images``.
    """
    mean, std = channel_statistics(spec, device)
    size = batch_size or default_batch_size(images)
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), full_precision(device):
            rows = [
                network((to_pixels(to_device(part, device)) - mean) / std).float().to(images.device)
                for part in images.split(size)
            ]
    finally:
        network.train(training)
    return torch.cat(rows) if rows else torch.zeros(0, spec.num_classes)


def default_batch_size(images: Tensor) -> int:
    """Return how many images of this shape a forward pass takes at once."""
    return max(1, min(_MAX_BATCH, _PIXELS_PER_BATCH // math.prod(images.shape[1:])))


def channel_statistics(spec: TeacherSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and std as float32 ``(1, C, 1, 1)`` on ``device``."""
    mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
    return mean, std


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of rows whose largest logit is the label's; NaN for no rows.

    Of findings it is the fraction of all that are known of which the answer is right; NaN for none.

    Args:
        logits: ``(N, K)``.
        labels: int64 ``(N,)``; or of findings int8 ``(N, K - 1)``: 1 present, 0 absent, -1 unknown.
    """
    return float(share_right(logits, labels))


def known_accuracy(logits: Tensor, labels: Tensor) -> float | None:
    """Return :func:`accuracy`, but None where no label is known: a record has no NaN."""
    share = accuracy(logits, labels)
    return None if math.isnan(share) else share


def share_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return :func:`accuracy` as a scalar on the logits' device: the host need not wait for it."""
    labels = labels.to(logits.device)
    if labels.ndim == 1:
        return (logits.argmax(1) == labels).float().mean()
    known = labels >= 0
    right = ((logits[:, 1:] > 0) == (labels == 1)) & known
    return right.sum() / known.sum()


def mean_auroc(logits: Tensor, labels: Tensor) -> float | None:
    """Return the area under the ROC curve: of two classes, or the mean over the findings.

    Args:
        logits: ``(N, K)``.
        labels: As for :func:`accuracy`.

    Returns:
        In [0, 1]; None for one of more than two classes, where there is no such curve, and where
        no finding is both there and absent.
    """
    if labels.ndim == 1:
        if logits.shape[1] != 2:
            return None
        return auroc(logits[:, 1] - logits[:, 0], labels == 1)
    areas = []
    for finding in with_curve(labels):
        rows = labels[:, finding] >= 0
        areas.append(auroc(logits[rows, finding + 1], labels[rows, finding] == 1))
    found = [area for area in areas if area is not None]
    return sum(found) / len(found) if found else None


def with_curve(labels: Tensor) -> list[int]:
    """Return the findings that have a ROC curve, from 0: there in one image, absent in another.

    Args:
        labels: ``(N, C)``: 1 present, 0 absent, -1 not known.
    """
    return ((labels == 1).any(0) & (labels == 0).any(0)).nonzero().flatten().tolist()


def auroc(scores: Tensor, present: Tensor) -> float | None:
    """Return how often a positive scores higher than a negative, ties counting half.

    The area under the ROC curve, by ranks (Mann and Whitney 1947).

    Args:
        scores: Float ``(N,)``.
        present: bool ``(N,)``.

    Returns:
        In [0, 1]; None without both positives and negatives.
    """
    num_positive = int(present.sum())
    num_negative = len(present) - num_positive
    if num_positive == 0 or num_negative == 0:
        return None
    _, places, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts - 1) / 2  # from 1; equal scores share their mean
    above = float(ranks[places][present].sum()) - num_positive * (num_positive + 1) / 2
    return above / (num_positive * num_negative)


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Return the fraction of rows with the same largest logit: Stanton et al. 2021's fidelity.

    Args:
        logits_a: ``(N, K)``.
        logits_b: ``(N, K)``, any device.
    """
    return accuracy(logits_a, logits_b.argmax(1))


def require_finite(logits: Tensor, whose: str) -> Tensor:
    """Return logits that others are compared with: where they are NaN, so are all, which agrees.

    Args:
        logits: ``(N, K)``.
        whose: Says it in the error.

    Raises:
        CheckpointError: If there is NaN or infinity among them.
    """
    if not torch.isfinite(logits).all():
        raise CheckpointError(
            f"{whose}: answers with NaN or infinity, expected finite logits; are mean, std and "
            "weights right?"
        )
    return logits


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch off mixed precision, and TensorFloat-32, which cuDNN uses by default."""
    with torch.autocast(device.type, enabled=False):
        if device.type == "cpu":  # the switch below is of the whole process, threads and all
            yield
            return
        with _IEEE.held():
            yield
