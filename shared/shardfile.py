"""One checked shard, open for reading rows."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.chunks import ChunkTable
from shared.dreams import FIELDS, DreamBatch
from shared.opener import naming
from shared.shards import read_contents
from shared.values import check_finite, check_values


class ShardFile:
    """The five arrays of a shard (or packed set).

    Opening checks the structure of the file (see :func:`shared.shards.open_safely`); every read
    checks the values. The descriptor is closed with the object.

    Attributes:
        path: Where it lies.
        attributes: What the shard says of itself.
        num_images: Rows.
        image_shape: ``(C, H, W)``.
        num_classes: Length of a logit vector.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self.path = path
        contents = read_contents(path)
        self.attributes = contents.attributes
        self._tables = contents.tables
        self.num_images, *image_shape = self._tables["images"].shape
        self.image_shape = tuple(image_shape)
        self.num_classes = self._tables["logits"].shape[1]
        with naming(path):
            self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, start: int, stop: int) -> DreamBatch:
        """Return rows ``start`` to ``stop``.

        Raises:
            DreamSetError: If a chunk is damaged or holds impossible values.
        """
        return self._batch(lambda table: table.read(self._descriptor, start, stop))

    def select(self, rows: NDArray[Any]) -> DreamBatch:
        """Return the given rows, int64 ``(n,)``, in that order."""
        return self._batch(lambda table: table.select(self._descriptor, rows))

    def images(self, rows: NDArray[Any]) -> Tensor:
        """Return only the images of the given rows, uint8 ``(n, C, H, W)``."""
        with naming(self.path):
            return torch.from_numpy(self._tables["images"].select(self._descriptor, rows))

    def read_images_into(self, images: Tensor) -> None:
        """Fill ``images``, uint8 ``(num_images, C, H, W)`` and contiguous, with all of them.

        Raises:
            DreamSetError: If a chunk is damaged; the tensor is then filled in part.
        """
        with naming(self.path):
            self._tables["images"].read_into(self._descriptor, 0, images.numpy())

    def column(self, name: str) -> Tensor:
        """Return one array of all rows: ``labels``, ``logits``, ``batch`` or ``loss``."""
        with naming(self.path):
            rows = self._tables[name].read(self._descriptor, 0, self.num_images)
            column = torch.from_numpy(rows)
            if column.is_floating_point():
                check_finite(name, column)
        return column

    def _batch(self, fetch: Callable[[ChunkTable], NDArray[Any]]) -> DreamBatch:
        with naming(self.path):
            dreams = DreamBatch(
                **{name: torch.from_numpy(fetch(self._tables[name])) for name, _, _ in FIELDS}
            )
            check_values(dreams)
        return dreams
