"""Real images that a student may be taught on beside the dreams; nobody has to have labelled them.

Little data, not none: what a device has seen since, or the few images that may be kept. The teacher
answers to them as to dreams, so their classes are not asked for (Hinton et al. 2015,
arXiv:1503.02531, section 1: a transfer set "could consist entirely of unlabeled data").
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recover.config import RecoverConfig
from shared.device import num_bytes_free, to_device
from shared.errors import InputFileError
from shared.evaldata import EvalData, digests_of, list_images, read_images
from shared.feed import Feed
from shared.gather import gather_rows
from shared.imagefile import open_image
from shared.seeding import generator
from shared.spec import TeacherSpec


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: the digests are kept
class Unlabeled:
    """Real images on the CPU.

    Attributes:
        images: uint8 ``(N, C, H, W)``, of the teacher's image shape; N is at least 1.
    """

    images: Tensor

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of the images, in whatever order."""
        return hashlib.sha256(b"".join(sorted(self._digests))).hexdigest()

    @cached_property
    def by_content(self) -> Tensor:
        """Their positions, int64 ``(N,)``, in an order that names and places do not change."""
        return torch.tensor(sorted(range(len(self.images)), key=self._digests.__getitem__))

    @cached_property
    def _digests(self) -> tuple[bytes, ...]:
        return tuple(digests_of(self.images))

    def count_shared(self, other: EvalData) -> int:
        """Return how many images of ``other`` are among these, pixel by pixel."""
        known = set(self._digests)
        return sum(digest in known for digest in digests_of(other.images))


def open_unlabeled(folder: Path, image_shape: tuple[int, int, int]) -> Unlabeled:
    """Return the images in ``folder`` and below it, made to fit; the names of folders mean nothing.

    Args:
        folder: Of png, jpg... as :func:`shared.evaldata.list_images` finds them.
        image_shape: ``(C, H, W)`` of the teacher.

    Raises:
        InputFileError: If there are none, or one cannot be read.
        IncompatibleError: If C is neither 1 nor 3.
    """
    if not folder.is_dir():
        raise InputFileError(f"--unlabeled {folder}: no such folder, expected one with images")
    files = list_images(folder)
    if not files:
        raise InputFileError(f"--unlabeled {folder}: no images (png, jpg ...) in it or below it")
    stats = [path.stat() for path in files]
    known = tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in zip(files, stats, strict=True))
    return _read(str(folder), known, image_shape)


def unlabeled_of(config: RecoverConfig, spec: TeacherSpec) -> Unlabeled | None:
    """Return the images of ``--unlabeled``, None without; as :func:`open_unlabeled`."""
    if config.unlabeled is None:
        return None
    return open_unlabeled(Path(config.unlabeled), spec.image_shape)


def num_unlabeled_per_batch(config: RecoverConfig) -> int:
    """Return how many images of a whole batch are of ``--unlabeled``: at least one, never all."""
    if config.unlabeled_share is None:
        return 0
    return min(max(round(config.unlabeled_share * config.batch_size), 1), config.batch_size - 1)


def record_of(
    unlabeled: Unlabeled | None, config: RecoverConfig, num_per_batch: int
) -> dict[str, Any] | None:
    """Return what a report's provenance says of them, None without."""
    if unlabeled is None:
        return None
    return {
        "path": config.unlabeled,
        "digest": unlabeled.digest,
        "num_images": len(unlabeled.images),
        "num_per_batch": num_per_batch,
    }


def seen_before(unlabeled: Unlabeled | None, eval_data: EvalData | None) -> list[str]:
    """Return a sentence on images that are learnt from and judged by, if there are any."""
    if unlabeled is None or eval_data is None:
        return []
    num_shared = unlabeled.count_shared(eval_data)
    if not num_shared:
        return []
    return [
        f"{num_shared:,} of the {len(eval_data.images):,} images of --eval-data are among those of "
        "--unlabeled: the student has learnt from what its accuracy is measured on"
    ]


@lru_cache(maxsize=1)  # the levels of a sweep ask for the same
def _read(
    folder: str, files: Sequence[tuple[str, int, int]], image_shape: tuple[int, int, int]
) -> Unlabeled:
    loaders = [partial(open_image, Path(name)) for name, _, _ in files]
    return Unlabeled(images=read_images(loaders, image_shape, f"--unlabeled {folder}"))


class MixedFeed:
    """Batches of dreams with other images among them; the interface of :class:`shared.feed.Feed`.

    The others go round by round, each of them once a round, in an order of its own. They stand at
    random places in the batch, since half of it is mixed in one way and half in another.

    Attributes:
        num_rows: Dreams to choose from.
        batch_size: Images in a batch, dreams and others.
        num_others: How many of them are others.
    """

    def __init__(
        self, dreams: Feed, others: Unlabeled, num_others: int, device: torch.device, seed: int
    ) -> None:
        """Keep the other images on the device if they fill at most half of its free memory.

        Args:
            dreams: Of the rest of every batch.
            others: Where they are fewer than ``num_others``, a batch has some of them several
                times.
            num_others: In every batch, at least 1.
            device: Where the batches are wanted.
            seed: Of the orders.
        """
        images = others.images
        fits = 2 * images.numel() <= num_bytes_free(device)
        self._images = (images.to(device) if fits else images).contiguous()
        self._by_content = others.by_content
        self._dreams = dreams
        self._device = device
        self._seed = seed
        self._order = lru_cache(maxsize=2)(self._make_order)
        self.num_rows = dreams.num_rows
        self.num_others = num_others
        self.batch_size = dreams.batch_size + num_others

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of an optimizer step, counted from 0.

        Returns:
            Images uint8 ``(B, C, H, W)`` and labels int64 ``(B,)`` on the device; -1 of the others.
        """
        images, labels = self._dreams.batch(step)
        rows = to_device(self._rows(step), self._images.device)
        others = to_device(gather_rows(self._images, rows), self._device)
        draws = generator(self._seed, "unlabeled", "places", step)
        places = to_device(torch.randperm(self.batch_size, generator=draws), self._device)
        unknown = torch.full_like(labels[:1], -1).expand(self.num_others)
        return torch.cat([images, others])[places], torch.cat([labels, unknown])[places]

    def _rows(self, step: int) -> Tensor:
        """Return which of the others come at a step, int64 on the CPU."""
        num_images, first = len(self._images), step * self.num_others
        last = first + self.num_others - 1
        rounds = range(first // num_images, last // num_images + 1)
        start = first - rounds[0] * num_images
        return torch.cat([self._order(number) for number in rounds])[start:][: self.num_others]

    def _make_order(self, number: int) -> Tensor:
        draws = generator(self._seed, "unlabeled", "order", number)
        return self._by_content[torch.randperm(len(self._images), generator=draws)]
