"""The images of a dream set that stay in memory because they are asked for again and again."""

import math
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.device import num_bytes_free
from shared.gather import empty_images, gather_rows

RESIDENT_LIMIT_BYTES = 2 * 2**30  # of decoded images: what a set, or a feed, holds at most


class KeptImages:
    """One array for the images of a whole set, filled shard by shard.

    A shard is worth keeping once more rows have been asked of it than it has: reading those one by
    one has cost as much as reading all would have, so a wrong guess at most doubles the work; and
    one pass, in order or shuffled, asks for each row once and keeps nothing. One array for all,
    since a random batch has rows of every shard and a single gather beats one for each.

    Only the process that opened the set keeps images: the workers of a DataLoader would hold a copy
    each. Under fork they share what was kept before; by pickle they get none.
    """

    def __init__(
        self, starts: NDArray[np.int64], image_shape: tuple[int, ...], limit_bytes: int
    ) -> None:
        """Keep nothing yet.

        Args:
            starts: ``(num_shards + 1,)``, the first row of each shard, and the number of rows.
            image_shape: ``(C, H, W)``.
            limit_bytes: A set whose images are larger than this is never kept, not even in part.
        """
        self._starts = starts
        self._image_shape = image_shape
        self._num_bytes = int(starts[-1]) * math.prod(image_shape)
        self._may_keep = self._num_bytes <= limit_bytes
        self._process = os.getpid()
        self._asked = np.zeros(len(starts) - 1, np.int64)
        self._kept = np.zeros(len(starts) - 1, np.bool_)
        self._images: Tensor | None = None
        self._whole: Tensor | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_kept": np.zeros_like(self._kept),
            "_images": None,
            "_whole": None,
            "_lock": None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __contains__(self, number: int) -> bool:
        return bool(self._kept[number])

    @property
    def whole(self) -> Tensor | None:
        """All images, uint8 ``(N, C, H, W)``, once every shard is kept; None before."""
        return self._whole

    def is_due(self, number: int, num_rows: int) -> bool:
        """Count so many rows as asked of a shard; return whether to :meth:`fill` it now."""
        self._asked[number] += num_rows
        num_here = self._starts[number + 1] - self._starts[number]
        return number not in self and self._asked[number] > num_here and self.make_room()

    def make_room(self) -> bool:
        """Return whether this process may keep the set; if so there is an array for it."""
        if self._process != os.getpid() or not self._may_keep:
            return False
        with self._lock:
            if self._images is None:
                # Not asked again: reading would be fast and slow for no reason that one can see.
                self._may_keep = 2 * self._num_bytes <= num_bytes_free(torch.device("cpu"))
                if self._may_keep:
                    self._images = empty_images(int(self._starts[-1]), self._image_shape)
        return self._may_keep

    def fill(self, number: int, read: Callable[[Tensor], None]) -> None:
        """Keep a shard, unless it is; :meth:`make_room` said yes before.

        Args:
            number: Of the shard.
            read: Fills uint8 ``(num_rows, C, H, W)`` with its images. If it raises, none are kept.
        """
        with self._lock:
            if number not in self:
                read(self._part(number))
                self._kept[number] = True
                if self._kept.all():
                    self._whole = self._images

    def select(self, number: int, rows: NDArray[np.int64]) -> Tensor:
        """Return rows of a kept shard, counted from its own first, as a new tensor."""
        return gather_rows(self._part(number), torch.from_numpy(rows))

    def _part(self, number: int) -> Tensor:
        assert self._images is not None
        return self._images[int(self._starts[number]) : int(self._starts[number + 1])]
