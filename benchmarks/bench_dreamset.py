"""How fast dream sets are written and read, beside NumPy, torch.load and folders of images.

    python benchmarks/bench_dreamset.py            # some minutes, 1 GB in the temporary folder
    python benchmarks/bench_dreamset.py --quick

Everything is read from the page cache. Rates are medians of several repetitions (least to most in
brackets), counted in images and in bytes of their pixels. Prints one Markdown table.

Random batches of a dream set have three rows. "first visit (sha256)": a set that was just opened,
as many random rows as it has, files checked and read. "from files": the same without the check, and
nothing kept, however often it is repeated. "after the first visits": every later time; the images
are in memory by then, because two passes asked for more rows than there are.
"""

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from shared.device import describe_device, resolve_device, synchronize  # noqa: E402
from shared.dreams import DreamBatch  # noqa: E402
from shared.dreamset import DreamSet  # noqa: E402
from shared.feed import Feed  # noqa: E402
from shared.images import to_images  # noqa: E402
from shared.manifest import Manifest, shard_names  # noqa: E402
from shared.seeding import generator  # noqa: E402
from shared.shards import write_index, write_shard  # noqa: E402
from shared.spec import TeacherSpec  # noqa: E402
from shared.values import arrays_of  # noqa: E402

BATCH_SIZE = 256
BLOCK_ROWS = 256
NUM_SHARDS = 8
FOLDERS = (("PNG", "png", {}), ("JPEG", "jpg", {"quality": 95}))
METHODS = ("fork", "spawn", "forkserver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much to measure with."""

    side: int  # pixels
    num_classes: int
    num_images: int
    num_decoded: int  # of the folders, whose images are slow to read
    repetitions: int

    @property
    def image_bytes(self) -> int:
        """Return the bytes of one image's pixels."""
        return 3 * self.side**2


class Table:
    """Rows of the result, each measured and printed at once; rates by name for comparisons."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._rates: dict[tuple[str, str], float] = {}

    def measure(
        self, operation: str, subject: str, num_images: int, run: Callable[[], object]
    ) -> None:
        """Time ``run``, which handles so many images; the first, untimed call warms caches."""
        run()
        seconds = [_seconds(run) for _ in range(self._sizes.repetitions)]
        rate = num_images / statistics.median(seconds)
        self._rates[operation, subject] = rate
        spread = f"{num_images / max(seconds):,.0f} to {num_images / min(seconds):,.0f}"
        print(
            f"| {self._sizes.side} | {operation} | {subject} | {rate:,.0f} ({spread}) "
            f"| {rate * self._sizes.image_bytes / 1e6:,.0f} | {self._compared(operation, rate)} |",
            flush=True,
        )

    def _compared(self, operation: str, rate: float) -> str:
        bases = {
            "read in order": ("numpy.load",),
            "write": ("numpy.save",),
            "random batches": ("folder, PNG", "folder, JPEG"),
        }.get(operation, ("folder, PNG",))
        return ", ".join(
            f"{rate / self._rates[operation, base]:.2f} x {base}"
            for base in bases
            if (operation, base) in self._rates
        )


class Dreams(Dataset[tuple[Tensor, Tensor]]):
    """Batches of a dream set for a DataLoader without collation: its items are lists of rows."""

    def __init__(self, dreams: DreamSet) -> None:
        self._dreams = dreams

    def __len__(self) -> int:
        return len(self._dreams)

    def __getitem__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        wanted = torch.tensor(rows)
        return self._dreams.images(wanted), self._dreams.labels[wanted]


def example_dreams(sizes: Sizes) -> DreamBatch:
    """Return images that compress about as badly as dreams: coarse shapes and fine noise."""
    draws = generator(0, "bench")
    count, side = sizes.num_images, sizes.side
    images = torch.empty((count, 3, side, side), dtype=torch.uint8)
    for start in range(0, count, BLOCK_ROWS):
        rows = len(part := images[start : start + BLOCK_ROWS])
        coarse = torch.rand((rows, 3, 8, 8), generator=draws)
        fine = torch.rand((rows, 3, side, side), generator=draws)
        part.copy_(to_images(0.8 * F.interpolate(coarse, (side, side)) + 0.2 * fine))
    labels = torch.arange(count) % sizes.num_classes
    return DreamBatch(
        images=images,
        labels=labels,
        logits=torch.rand((count, sizes.num_classes), generator=draws).half(),
        batch=(torch.arange(count) // BATCH_SIZE).int(),
        loss=torch.zeros(count),
    )


def write_dreams(folder: Path, dreams: DreamBatch, num_classes: int) -> Path:
    """Write a set of eight shards, fsynced and read back as always."""
    index = folder / "dreams.h5"
    spec = TeacherSpec(
        architecture="none",
        num_classes=num_classes,
        image_shape=tuple(dreams.images.shape[1:]),  # type: ignore[arg-type]
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        fingerprint="0" * 64,
    )
    parts = torch.arange(len(dreams)).tensor_split(NUM_SHARDS)
    shards = []
    for number, name in enumerate(shard_names(index, NUM_SHARDS)):
        attributes = {"shard": number, "num_shards": NUM_SHARDS, "teacher": spec.fingerprint}
        rows = slice(int(parts[number][0]), int(parts[number][-1]) + 1)
        arrays = {key: torch.from_numpy(value)[rows] for key, value in arrays_of(dreams).items()}
        shards.append(write_shard(folder / name, DreamBatch(**arrays), attributes))
    manifest = Manifest(num_images=len(dreams), shards=tuple(shards), teacher=spec)
    write_index(index, manifest, dreams.labels)
    return index


def write_folder(
    folder: Path, dreams: DreamBatch, num_images: int, suffix: str, options: dict[str, int]
) -> None:
    """Write the first images as files in a folder per class."""
    for row in range(num_images):
        place = folder / f"{int(dreams.labels[row]):04d}"
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(dreams.images[row].permute(1, 2, 0).numpy())
        picture.save(place / f"{row:06d}.{suffix}", **options)


def save_arrays(folder: Path, dreams: DreamBatch) -> None:
    """Write the five arrays as .npy."""
    for name, array in arrays_of(dreams).items():
        np.save(folder / f"{name}.npy", array)


def load_arrays(folder: Path) -> list[object]:
    """Read the five arrays back."""
    return [np.load(path) for path in sorted(folder.glob("*.npy"))]


def read_in_order(dreams: DreamSet) -> None:
    """Read all rows, all arrays, shard by shard."""
    for _ in dreams.shards():
        pass


def batches(num_rows: int, num_images: int) -> Iterator[Tensor]:
    """Yield random batches of row numbers, some ``num_images`` in all, always the same."""
    draws = generator(0, "bench batches")
    for _ in range(max(1, num_images // BATCH_SIZE)):
        yield torch.randint(0, num_rows, (BATCH_SIZE,), generator=draws)


def read_at_random(dreams: DreamSet, *, keep: bool = True) -> None:
    """Read as many random rows as there are, in batches."""
    for rows in batches(len(dreams), len(dreams)):
        dreams.images(rows, keep=keep)


def bench_files(table: Table, sizes: Sizes, dreams: DreamBatch, folder: Path) -> None:
    """Measure writing and reading in order."""
    count, few = sizes.num_images, sizes.num_decoded
    blob = folder / "arrays.pt"
    tensors = {name: getattr(dreams, name) for name in ("images", "labels", "logits")}
    table.measure("write", "numpy.save", count, lambda: save_arrays(folder, dreams))
    table.measure("write", "torch.save", count, lambda: torch.save(tensors, blob))
    table.measure(
        "write", "dream set", count, lambda: write_dreams(folder, dreams, sizes.num_classes)
    )
    for name, suffix, options in FOLDERS:
        place = folder / suffix
        table.measure(
            "write",
            f"folder, {name}",
            few,
            lambda p=place, s=suffix, o=options: write_folder(p, dreams, few, s, o),
        )
    index = folder / "dreams.h5"
    opened = DreamSet.open(index)
    table.measure("read in order", "numpy.load", count, lambda: load_arrays(folder))
    table.measure("read in order", "torch.load", count, lambda: torch.load(blob))  # noqa: TID251
    table.measure("read in order", "dream set", count, lambda: read_in_order(opened))
    table.measure(
        "read in order",
        "dream set, first time (sha256)",
        count,
        lambda: read_in_order(DreamSet.open(index)),
    )
    for name, suffix, _ in FOLDERS:
        source = ImageFolder(str(folder / suffix), PILToTensor())
        table.measure(
            "read in order", f"folder, {name}", few, lambda s=source: [s[i] for i in range(few)]
        )


def bench_random(table: Table, sizes: Sizes, folder: Path) -> None:
    """Measure random batches."""
    count, few = sizes.num_images, sizes.num_decoded
    for name, suffix, _ in FOLDERS:
        source = ImageFolder(str(folder / suffix), PILToTensor())
        table.measure(
            "random batches",
            f"folder, {name}",
            BATCH_SIZE * max(1, few // BATCH_SIZE),
            lambda s=source: [
                torch.stack([s[int(row)][0] for row in rows]) for rows in batches(few, few)
            ],
        )
    mapped, index = np.load(folder / "images.npy", mmap_mode="r"), folder / "dreams.h5"
    files, kept = DreamSet.open(index), DreamSet.open(index)
    for _ in range(2):
        read_at_random(kept)

    def read_mapped() -> None:
        for rows in batches(count, count):
            mapped[rows.numpy()]

    for name, run in (
        ("numpy.load(mmap_mode='r')", read_mapped),
        ("dream set, first visit (sha256)", lambda: read_at_random(DreamSet.open(index))),
        ("dream set, from files", lambda: read_at_random(files, keep=False)),
        ("dream set, after the first visits", lambda: read_at_random(kept)),
    ):
        table.measure("random batches", name, BATCH_SIZE * max(1, count // BATCH_SIZE), run)


def bench_loaders(table: Table, sizes: Sizes, folder: Path, num_workers: int) -> None:
    """Measure whole epochs of DataLoader; the first one, which starts the workers, is not timed."""
    images = ImageFolder(str(folder / "png"), PILToTensor())
    dreams = Dreams(DreamSet.open(folder / "dreams.h5"))
    for method in METHODS:
        workers = {
            "num_workers": num_workers,
            "multiprocessing_context": method,
            "persistent_workers": True,
        }
        by_rows = BatchSampler(RandomSampler(dreams), BATCH_SIZE, drop_last=False)
        loaders = (
            ("folder, PNG", images, DataLoader(images, BATCH_SIZE, shuffle=True, **workers)),
            ("dream set", dreams, DataLoader(dreams, None, sampler=by_rows, **workers)),
        )
        for name, source, loader in loaders:
            operation = f"DataLoader, {num_workers} workers, {method}"
            table.measure(operation, name, len(source), lambda epoch=loader: list(map(len, epoch)))


def bench_feed(table: Table, sizes: Sizes, index: Path, device: torch.device) -> None:
    """Measure what distillation uses: batches on the device, resident or streamed."""
    dreams = DreamSet.open(index)
    rows = torch.arange(dreams.num_images)
    for name, limit in (("resident", 2**62), ("streamed", 0)):
        feed = Feed(dreams, rows, BATCH_SIZE, device, 0, resident_limit_bytes=limit)

        def epoch(feed: Feed = feed) -> None:
            for step in range(feed.steps_per_epoch):
                feed.batch(step)
            synchronize(device)

        num_images = feed.steps_per_epoch * feed.batch_size
        table.measure(f"Feed to {device.type}", name, num_images, epoch)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def chosen_sizes(arguments: argparse.Namespace) -> list[Sizes]:
    """Return what to measure for the given flags."""
    few, repetitions = arguments.quick, 2 if arguments.quick else arguments.repetitions
    counts = {32: (2048, 256) if few else (50_000, 5000), 224: (64, 32) if few else (2000, 500)}
    if arguments.images:
        counts = dict.fromkeys(counts, (arguments.images, arguments.images))
    return [
        Sizes(
            side=side,
            num_classes=10 if side == 32 else 1000,
            num_images=counts[side][0],
            num_decoded=counts[side][1],
            repetitions=repetitions,
        )
        for side in arguments.sides
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--sides", type=int, nargs="+", choices=(32, 224), default=(32, 224))
    parser.add_argument("--images", type=int, help="instead of the usual numbers")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of DataLoader")
    parser.add_argument("--device", default="auto", help="for the feed")
    parser.add_argument("--folder", type=Path, help="where to write  [default: a temporary folder]")
    chosen = parser.parse_args(arguments)
    device = resolve_device(chosen.device)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "h5py", "numpy", "pillow"))
    words = " ".join(sys.argv[1:] if arguments is None else arguments)
    print(f"`python benchmarks/bench_dreamset.py {words}`".replace(" `", "`"))
    print(f"{describe_device(device)}; Python {platform.python_version()}, {versions}\n")
    print("| px | operation | of | images/s | MB/s | compared |\n|--:|---|---|--:|--:|--:|")
    for sizes in chosen_sizes(chosen):
        folder = Path(tempfile.mkdtemp(prefix="bench_dreamset", dir=chosen.folder))
        try:
            table = Table(sizes)
            bench_files(table, sizes, example_dreams(sizes), folder)
            bench_random(table, sizes, folder)
            bench_loaders(table, sizes, folder, chosen.workers)
            bench_feed(table, sizes, folder / "dreams.h5", device)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
