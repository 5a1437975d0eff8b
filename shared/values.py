"""What the arrays of a dream set are, and which values they may hold."""

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.dreams import FIELDS, DreamBatch
from shared.errors import CheckpointError, DreamSetError

# Of a shard, and of a packed set: name: dtype, number of dimensions. The rows come first.
ARRAYS: dict[str, tuple[str, int]] = {
    "images": ("|u1", 4),
    "labels": ("<i8", 1),
    "logits": ("<f2", 2),
    "batch": ("<i4", 1),
    "loss": ("<f4", 1),
}
# Of the index.
INDEX_ARRAYS: dict[str, tuple[str, int]] = {
    "manifest": ("|u1", 1),
    "labels": ("<i8", 1),
    "teacher": ("|u1", 1),
}


def arrays_of(dreams: DreamBatch) -> dict[str, NDArray[Any]]:
    """Return the arrays of a batch by name, in the order and with the dtypes of ``ARRAYS``."""
    return {
        name: getattr(dreams, name).contiguous().numpy().astype(ARRAYS[name][0], copy=False)
        for name, _, _ in FIELDS
    }


def bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of an array, flat, to compare or hash them."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def arrays_sha256(dreams: DreamBatch) -> str:
    """Return the sha256 over the little-endian bytes of images, labels, logits, batch, loss."""
    digest = hashlib.sha256()
    for array in arrays_of(dreams).values():
        digest.update(bits(array).data)
    return digest.hexdigest()


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise DreamSetError (without a path) unless all labels are in ``[0, num_classes)``."""
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise DreamSetError(
            f"labels from {low} to {high}, expected 0 to {num_classes - 1}; get it again"
        )


def check_values(dreams: DreamBatch) -> None:
    """Raise DreamSetError (without a path) if labels are out of range or floats not finite."""
    check_labels(dreams.labels, dreams.logits.shape[1])
    check_finite("logits", dreams.logits)
    check_finite("loss", dreams.loss)


def stored_logits(logits: Tensor, whose: str) -> Tensor:
    """Return logits as a set stores them, float16; ``whose`` they are, an error says.

    Raises:
        CheckpointError: If there is NaN, infinity or what float16 cannot hold among them.
    """
    stored = logits.half()
    if not torch.isfinite(stored).all():
        raise CheckpointError(
            f"{whose}: logits beyond float16 (65,504) or not finite; are mean, std and weights "
            "right?"
        )
    return stored


def check_finite(name: str, values: Tensor) -> None:
    """Raise DreamSetError (without a path) if there is NaN or infinity among the values."""
    if not torch.isfinite(values).all():
        raise DreamSetError(f"{name} hold NaN or infinity, expected finite numbers; get it again")
