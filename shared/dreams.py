"""The value that passes from synthesis to the shards, and from the shards to distillation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DreamBatch:
    """Dreams on the CPU, row by row.

    Attributes:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``, the class each image was synthesised for, or the teacher's answer.
        logits: float16 ``(N, K)``, the teacher's float32 answer to exactly these images, rounded.
        batch: int32 ``(N,)``, the synthesis batch of each row: the unit of reproducibility.
        loss: float32 ``(N,)``, the objective of the row's batch when its images were taken.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    batch: Tensor
    loss: Tensor

    def __post_init__(self) -> None:
        num_rows = self.images.shape[0]
        for name, dtype, ndim in FIELDS:
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.ndim != ndim or tensor.shape[0] != num_rows:
                raise ValueError(
                    f"{name}: found {tensor.dtype} {tuple(tensor.shape)}, "
                    f"expected {dtype} with {ndim} dimensions and {num_rows} rows"
                )

    def __len__(self) -> int:
        return self.images.shape[0]

    def select(self, rows: Tensor | slice) -> "DreamBatch":
        """Return the given rows (a boolean mask, indices or a slice)."""
        return DreamBatch(**{name: getattr(self, name)[rows] for name, _, _ in FIELDS})


FIELDS: tuple[tuple[str, torch.dtype, int], ...] = (
    ("images", torch.uint8, 4),
    ("labels", torch.int64, 1),
    ("logits", torch.float16, 2),
    ("batch", torch.int32, 1),
    ("loss", torch.float32, 1),
)


def concatenate(batches: list[DreamBatch]) -> DreamBatch:
    """Return the rows of all batches, in order."""
    # By NumPy: torch.cat refuses float16 on the CPU where a training loop has begun an autocast.
    parts = {name: [getattr(batch, name).numpy() for batch in batches] for name, _, _ in FIELDS}
    return DreamBatch(
        **{name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in parts.items()}
    )
