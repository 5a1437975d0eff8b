"""A finished dream set, opened for reading: an index and the shards beside it."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.dreams import DreamBatch, concatenate
from shared.errors import DreamSetError
from shared.files import sha256_of
from shared.gather import empty_images, gather_rows
from shared.kept import RESIDENT_LIMIT_BYTES, KeptImages
from shared.manifest import Manifest
from shared.opener import naming
from shared.shardfile import ShardFile
from shared.shards import read_index, read_teacher
from shared.values import arrays_sha256

MAX_OPEN_SHARDS = 64  # file descriptors, of which a process may have 1024


class DreamSet:
    """Rows of a dream set by number, from whichever shard holds them.

    Made with :meth:`open`. Files are opened when they are needed, and compared with their sha256
    the first time. It can be pickled and used after a fork: each process opens its own files.

    Attributes:
        path: Of the index.
        manifest: What the index says.
        labels: int64 ``(N,)``, of all rows, from the index; equal to the shards' own.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        labels: Tensor,
        *,
        check: bool,
        keep_limit_bytes: int = RESIDENT_LIMIT_BYTES,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.labels = labels
        self._check = check
        counts = [shard.num_images for shard in manifest.shards] or [manifest.num_images]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._checked: set[int] = set()
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._process = os.getpid()
        self._kept = KeptImages(self._starts, self.image_shape, keep_limit_bytes)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        check: bool = True,
        keep_limit_bytes: int = RESIDENT_LIMIT_BYTES,
    ) -> "DreamSet":
        """Open a set by its index.

        Args:
            path: The index, ``dreams.h5``.
            check: Compare every shard with its sha256 when it is first read.
            keep_limit_bytes: Images of at most so many bytes, decoded, may stay in memory (see
                :meth:`images`); 0 reads the files every time.

        Raises:
            DreamSetError: If the index is missing, damaged, hostile or of another version, or a
                shard is missing or has the wrong size.
        """
        path = Path(path)
        index = read_index(path)
        dreams = cls(
            path, index.manifest, index.labels, check=check, keep_limit_bytes=keep_limit_bytes
        )
        for number in range(len(index.manifest.shards)):
            dreams.check_size(number)
        return dreams

    @property
    def num_images(self) -> int:
        """Rows of the whole set."""
        return self.manifest.num_images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.manifest.teacher.image_shape

    @property
    def num_shards(self) -> int:
        """Files that hold rows: the shards, or 1 in a packed set."""
        return len(self._starts) - 1

    def __len__(self) -> int:
        return self.num_images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def read(self, start: int, stop: int) -> DreamBatch:
        """Return rows ``start`` to ``stop``, from as many shards as hold them.

        Raises:
            DreamSetError: If a shard is damaged, does not match the index, or holds impossible
                values.
            IndexError: If there are no such rows.
        """
        if not 0 <= start < stop <= self.num_images:
            raise IndexError(f"rows {start} to {stop} of {self.num_images}")
        parts = []
        for number in range(self._number_of(start), self._number_of(stop - 1) + 1):
            first, last = self.shard_rows(number)
            low, high = max(start, first) - first, min(stop, last) - first
            parts.append(self._shard(number).read(low, high))
        return concatenate(parts) if len(parts) > 1 else parts[0]

    def select(self, rows: Tensor) -> DreamBatch:
        """Return the given rows, int64 ``(n,)`` on any device, in that order, on the CPU.

        Each shard is visited once.
        """
        groups = self._by_shard(rows)
        parts = [self._shard(number).select(local) for number, _, local in groups]
        order = torch.cat([places for _, places, _ in groups])
        return concatenate(parts).select(order.argsort())

    def images(self, rows: Tensor, *, keep: bool = True) -> Tensor:
        """Return only the images of the given rows: uint8 ``(n, C, H, W)``, in that order.

        A shard of which more rows were asked for than it has stays in memory, as it was when it was
        read then: see :class:`~shared.kept.KeptImages` and ``keep_limit_bytes``.

        Args:
            rows: int64 ``(n,)`` on any device, at least one, in any order, repeated or not.
            keep: Whether these rows count; False for a caller that keeps what it gets.

        Raises:
            DreamSetError: If a shard is damaged or does not match the index.
            IndexError: If there are no such rows.
        """
        if (whole := self._kept.whole) is not None and len(rows):
            return gather_rows(whole, rows.cpu())
        groups = self._by_shard(rows)
        parts = (self._images_of(number, local, keep=keep) for number, _, local in groups)
        if len(groups) == 1:
            return next(parts)
        images = empty_images(len(rows), self.image_shape)
        for (_, places, _), part in zip(groups, parts, strict=True):
            # NumPy assigns whole rows, PyTorch one element after the other.
            images.numpy()[places.numpy()] = part.numpy()
        return images

    def keep_images(self) -> bool:
        """Read the images that are not in memory yet, for processes that are forked afterwards.

        Returns:
            False if nothing was read: they are larger than ``keep_limit_bytes`` or half of the
            memory that is free, or another process opened the set.

        Raises:
            DreamSetError: If a shard is damaged or does not match the index.
        """
        if not self._kept.make_room():
            return False
        for number in range(self.num_shards):
            self._keep(number)
        return True

    def shards(self) -> Iterator[DreamBatch]:
        """Yield all rows of one shard after the other."""
        return (self.read(*self.shard_rows(number)) for number in range(self.num_shards))

    def columns(self, name: str) -> Iterator[Tensor]:
        """Yield one array (``logits``, ``batch``, ``loss``) of one shard after the other."""
        return (self._shard(number).column(name) for number in range(self.num_shards))

    def shard_rows(self, number: int) -> tuple[int, int]:
        """Return the first row of a shard, and the one after its last."""
        return int(self._starts[number]), int(self._starts[number + 1])

    def shard_path(self, number: int) -> Path:
        """Return where a shard lies: beside the index (or in it, in a packed set)."""
        if self.manifest.packed:
            return self.path
        # As UTF-8, whatever the locale: the name is text from the index, not from this machine.
        return self.path.parent / os.fsdecode(self.manifest.shards[number].name.encode())

    def teacher_blob(self) -> bytes | None:
        """Return the embedded teacher as safetensors bytes, or None if there is none."""
        return read_teacher(self.path)

    def check_size(self, number: int) -> None:
        """Raise DreamSetError unless a shard is a file of the recorded size beside the index."""
        if self.manifest.packed:
            return
        path, expected = self.shard_path(number), self.manifest.shards[number].num_bytes
        with naming(path):
            # A link may lead to where the index itself lies (as in the Hugging Face cache), no
            # further.
            homes = {self.path.parent.resolve(), self.path.resolve().parent}
            if path.resolve().parent not in homes:
                raise DreamSetError("leads out of the folder of the index; refuse the set")
            if not path.is_file():
                raise DreamSetError(f"not found; copy it beside {self.path.name}")
            found = path.stat().st_size
            if found != expected:
                raise DreamSetError(f"{found} bytes, expected {expected}; copy it again")

    def check_sha256(self, number: int) -> None:
        """Raise DreamSetError unless a shard holds the bytes that the index promises."""
        path = self.shard_path(number)
        with naming(path):
            if self.manifest.packed:
                expected = self.manifest.arrays_sha256
                shard = ShardFile(path)
                found = arrays_sha256(shard.read(0, shard.num_images))
            else:
                expected, found = self.manifest.shards[number].sha256, sha256_of(path)
            if found != expected:
                raise DreamSetError(
                    f"damaged: sha256 is {found}, expected {expected}; copy it again"
                )

    def check_contents(self, number: int) -> ShardFile:
        """Return a shard, opened; DreamSetError if it is not the one that the index describes."""
        shard = ShardFile(self.shard_path(number))
        first, last = self.shard_rows(number)
        teacher = self.manifest.teacher
        found = (shard.num_images, shard.image_shape, shard.num_classes)
        expected = (last - first, teacher.image_shape, teacher.num_classes)
        with naming(shard.path):
            if found != expected:
                raise DreamSetError(
                    f"holds (images, shape, classes) {found}, the index says {expected}"
                )
            # A packed set has no shards that say whose they are.
            if not self.manifest.packed and shard.attributes.get("teacher") != teacher.fingerprint:
                raise DreamSetError("its teacher is not that of the index; get it again")
            if not torch.equal(shard.column("labels"), self.labels[first:last]):
                raise DreamSetError("its labels differ from the copy in the index; get it again")
        return shard

    def _images_of(self, number: int, rows: NDArray[Any], *, keep: bool) -> Tensor:
        if keep and self._kept.is_due(number, len(rows)):
            self._keep(number)
        if number in self._kept:
            return self._kept.select(number, rows)
        return self._shard(number).images(rows)

    def _keep(self, number: int) -> None:
        self._kept.fill(number, lambda part: self._shard(number).read_images_into(part))

    def _number_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _by_shard(self, rows: Tensor) -> list[tuple[int, Tensor, NDArray[Any]]]:
        """Return for each shard that is wanted: places in ``rows``, and the shard's own rows.

        Places ascend, so that a single shard's rows are in the order of ``rows``.
        """
        wanted = rows.cpu().numpy()
        if len(wanted) == 0 or wanted.min() < 0 or wanted.max() >= self.num_images:
            raise IndexError(f"no rows, or rows outside 0 to {self.num_images - 1}")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        return [
            (number, torch.from_numpy(group), wanted[group] - self._starts[number])
            for number, group in ((int(numbers[group[0]]), group) for group in groups)
        ]

    def _shard(self, number: int) -> ShardFile:
        if self._process != os.getpid():  # a fork: the parent's descriptors stay the parent's
            self._open, self._process = OrderedDict(), os.getpid()
        if number not in self._open:
            if self._check and number not in self._checked:
                # Before libhdf5 sees a byte of it.
                self.check_size(number)
                self.check_sha256(number)
                self._checked.add(number)
            self._open[number] = self.check_contents(number)
        self._open.move_to_end(number)
        while len(self._open) > MAX_OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[number]
