"""Dreams that the student never trains on: they measure agreement where no real image is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.dreamset import DreamSet
from shared.seeding import generator

MOST_HELD_OUT = 5000  # images; agreement is then known to within 1.4 points (two standard errors)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers, ascending int64: ``train`` and ``held_out`` together are all rows."""

    train: Tensor
    held_out: Tensor


def split_rows(labels: Tensor, fraction: float, seed: int) -> Split:
    """Return a random split in which every class gives its share, up to rounding.

    The rows are shuffled, sorted by class, and every ``1 / fraction``-th is held out. Of rows that
    are the only one of their class none is held out.

    Args:
        labels: int64 ``(N,)``.
        fraction: Of the rows to hold out, in [0, 0.5]; at most :data:`MOST_HELD_OUT` rows.
        seed: Of the shuffle.
    """
    num_rows = len(labels)
    fraction = min(fraction, MOST_HELD_OUT / max(num_rows, 1))
    shuffled = torch.randperm(num_rows, generator=generator(seed, "holdout"))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # The 1e-9 keeps 10 x 0.1 from falling short of 1.
    due = (torch.arange(num_rows + 1, dtype=torch.float64) * fraction + 1e-9).floor()
    chosen = due.diff() > 0
    if num_rows:
        class_sizes = labels.bincount()
        chosen &= class_sizes[labels[by_class]] > 1
    return Split(by_class[~chosen].sort().values, by_class[chosen].sort().values)


def images_of(dreams: DreamSet, rows: Tensor) -> Tensor:
    """Return the uint8 ``(n, C, H, W)`` images of ``rows``, possibly none."""
    if len(rows) == 0:
        return torch.empty((0, *dreams.image_shape), dtype=torch.uint8)
    return dreams.images(rows, keep=False)
