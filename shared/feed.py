"""Batches for training: which rows come at which step, and how they get to the device fast.

The batch of a step is a function of (seed, step) alone: training can be stopped and continued at
any step, on any machine, with the batches of an undisturbed run.
"""

from collections import OrderedDict
from functools import lru_cache

import torch
from torch import Tensor

from shared.device import num_bytes_free, to_device
from shared.dreamset import DreamSet
from shared.gather import empty_images, gather_rows
from shared.kept import RESIDENT_LIMIT_BYTES
from shared.seeding import generator

CACHE_LIMIT_BYTES = RESIDENT_LIMIT_BYTES  # of a set that is too large to be resident
_READ_ROWS = 4096  # at a time, when a set is read whole


class TensorFeed:
    """Batches of images that are in memory, shuffled anew in every epoch.

    Every epoch visits every row once, except that the rows that do not fill a last batch wait for
    another epoch. With fewer rows than ``batch_size`` a batch is all of them.

    Attributes:
        num_rows: Images to choose from.
        batch_size: Images in a batch.
        steps_per_epoch: Batches in an epoch.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, device: torch.device, seed: int
    ) -> None:
        """Keep the images on the device if they fill at most half of its free memory.

        Args:
            images: uint8 ``(N, C, H, W)``.
            labels: int64 ``(N,)``.
            batch_size: At least 1.
            device: Where the batches are wanted.
            seed: Of the order.
        """
        self._schedule = _Schedule([len(images)], batch_size, seed)
        self.num_rows = len(images)
        self.batch_size = self._schedule.batch_size
        self.steps_per_epoch = self._schedule.steps_per_epoch
        self._device = device
        fits = 2 * images.numel() <= num_bytes_free(device)
        self._images = (images.to(device) if fits else images).contiguous()
        self._labels = labels.to(self._images.device)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of an optimizer step, counted from 0.

        Returns:
            Images uint8 ``(B, C, H, W)`` and labels int64 ``(B,)`` on the device.
        """
        places = to_device(self._schedule.places(step), self._images.device)
        images, labels = gather_rows(self._images, places), self._labels[places]
        return to_device(images, self._device), to_device(labels, self._device)


class Feed:
    """Batches of rows of a dream set; the interface of :class:`TensorFeed`.

    Rows of up to ``resident_limit_bytes`` are read once and stay in memory, on the device where
    they fit. More than that is streamed: an epoch takes the shards in random order and shuffles the
    rows within each, so that neighboring batches are of the same shard. Dream sets are balanced
    within each batch of their synthesis, hence within each shard, so this mixes classes well; but
    dreams of one synthesis batch meet more often than chance would have it. Which of the two
    happens depends on the set and the limit, never on how much memory is free at the moment.

    Attributes:
        num_rows: Images to choose from.
        batch_size: Images in a batch.
        steps_per_epoch: Batches in an epoch.
    """

    def __init__(
        self,
        dreams: DreamSet,
        rows: Tensor,
        batch_size: int,
        device: torch.device,
        seed: int,
        *,
        resident_limit_bytes: int = RESIDENT_LIMIT_BYTES,
        cache_limit_bytes: int = CACHE_LIMIT_BYTES,
    ) -> None:
        """Read the rows if they are few.

        Args:
            dreams: The set.
            rows: int64 ``(n,)``, which of its rows to use, in any order; at least one.
            batch_size: At least 1.
            device: Where the batches are wanted.
            seed: Of the order.
            resident_limit_bytes: Images of more bytes are streamed.
            cache_limit_bytes: How much of a streamed set to keep in memory; at least one shard.

        Raises:
            DreamSetError: If a shard is damaged, here or later.
        """
        num_bytes = len(rows) * torch.Size(dreams.image_shape).numel()
        self._source: TensorFeed | _Stream
        if num_bytes <= resident_limit_bytes:
            images = empty_images(len(rows), dreams.image_shape)
            for start in range(0, len(rows), _READ_ROWS):
                part = slice(start, start + _READ_ROWS)
                images[part] = dreams.images(rows[part], keep=False)
            self._source = TensorFeed(images, dreams.labels[rows], batch_size, device, seed)
        else:
            self._source = _Stream(dreams, rows, batch_size, device, seed, cache_limit_bytes)
        self.num_rows = len(rows)
        self.batch_size = self._source.batch_size
        self.steps_per_epoch = self._source.steps_per_epoch

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of an optimizer step, counted from 0: images and labels."""
        return self._source.batch(step)


class _Stream:
    """Batches of a set that is too large to keep; the last shards used stay in memory."""

    def __init__(
        self,
        dreams: DreamSet,
        rows: Tensor,
        batch_size: int,
        device: torch.device,
        seed: int,
        cache_limit_bytes: int,
    ) -> None:
        self._dreams = dreams
        self._device = device
        self._rows = rows.sort().values
        ends = torch.tensor([dreams.shard_rows(i)[1] for i in range(dreams.num_shards)])
        bounds = torch.searchsorted(self._rows, ends)
        counts = torch.diff(bounds, prepend=torch.zeros(1, dtype=torch.int64))
        self._used = [shard for shard, count in enumerate(counts.tolist()) if count]
        self._starts = [int(bounds[shard] - counts[shard]) for shard in self._used]
        sizes = [int(counts[shard]) for shard in self._used]
        self._blocks = [
            self._rows[start : start + size]
            for start, size in zip(self._starts, sizes, strict=True)
        ]
        self._schedule = _Schedule(sizes, batch_size, seed)
        self.batch_size = self._schedule.batch_size
        self.steps_per_epoch = self._schedule.steps_per_epoch
        largest = max(sizes) * torch.Size(dreams.image_shape).numel()
        self._max_cached = max(1, cache_limit_bytes // largest)
        self._cache: OrderedDict[int, Tensor] = OrderedDict()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        places = self._schedule.places(step)
        rows = self._rows[places]
        blocks = torch.bucketize(places, torch.tensor(self._starts), right=True) - 1
        # Steps begin a block, are within one or end it: the schedule takes one after the other.
        numbers, counts = blocks.unique_consecutive(return_counts=True)
        parts = [
            gather_rows(self._images(block), part - self._starts[block])
            for block, part in zip(numbers.tolist(), places.split(counts.tolist()), strict=True)
        ]
        images = torch.cat(parts) if len(parts) > 1 else parts[0]
        labels = self._dreams.labels[rows]
        return to_device(images, self._device), to_device(labels, self._device)

    def _images(self, block: int) -> Tensor:
        if block not in self._cache:
            while len(self._cache) >= self._max_cached:
                self._cache.popitem(last=False)
            self._cache[block] = self._dreams.images(self._blocks[block], keep=False)
        self._cache.move_to_end(block)
        return self._cache[block]


class _Schedule:
    """Which places come at which step: blocks in random order, places shuffled within each."""

    def __init__(self, block_sizes: list[int], batch_size: int, seed: int) -> None:
        self._sizes = block_sizes
        self._seed = seed
        self._num_places = sum(block_sizes)
        self.batch_size = min(batch_size, self._num_places)
        self.steps_per_epoch = self._num_places // self.batch_size
        self._order = lru_cache(maxsize=2)(self._make_order)

    def places(self, step: int) -> Tensor:
        """Return the places of a step, int64 ``(B,)`` on the CPU."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return self._order(epoch)[start : start + self.batch_size]

    def _make_order(self, epoch: int) -> Tensor:
        draws = generator(self._seed, "feed", epoch)
        starts = torch.tensor([0, *self._sizes]).cumsum(0).tolist()
        return torch.cat(
            [
                starts[block] + torch.randperm(self._sizes[block], generator=draws)
                for block in torch.randperm(len(self._sizes), generator=draws).tolist()
            ]
        )
