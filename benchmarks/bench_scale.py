"""What the files of an ImageNet-sized dream set cost: making, finishing, checking, merging them.

    OMP_NUM_THREADS=1 python benchmarks/bench_scale.py            # 0.4 GB in the temporary folder
    OMP_NUM_THREADS=1 python benchmarks/bench_scale.py --shards 2 --small-shards 50

Two parts: a few shards of the size that 224 px gets by default, random pixels in them, for what
grows with bytes; and many tiny shards, for what grows with their number. Everything is in the page
cache, and CPU seconds of one thread are counted, so that neither the disk nor other processes
matter. Prints one Markdown table, extrapolated to a million dreams.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dreamforge.config import SynthesisConfig  # noqa: E402
from dreamforge.finish import RunFacts, finish_set  # noqa: E402
from dreamforge.journal import Journal  # noqa: E402
from dreamforge.merge import merge  # noqa: E402
from dreamforge.plan import ShardPlan, plan_shards  # noqa: E402
from dreamforge.resume import missing_shards, refuse_other_runs, shard_attributes  # noqa: E402
from dreamforge.verify import verify  # noqa: E402
from shared.architectures import build_network  # noqa: E402
from shared.dreams import DreamBatch  # noqa: E402
from shared.dreamset import DreamSet  # noqa: E402
from shared.seeding import generator  # noqa: E402
from shared.shards import write_shard  # noqa: E402
from shared.spec import TeacherSpec  # noqa: E402
from shared.teacher import Teacher, fingerprint  # noqa: E402

MILLION = 1_000_000
NUM_CLASSES = 1000


def main() -> None:
    """Measure both parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=3, help="of the usual size at 224 px")
    parser.add_argument("--small-shards", type=int, default=500, help="of two dreams each")
    arguments = parser.parse_args()
    print("| what | measured on | CPU s | for a million dreams at 224 px |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        measure_bytes(Path(folder), arguments.shards)
    with tempfile.TemporaryDirectory() as folder:
        measure_files(Path(folder), arguments.small_shards)


def measure_bytes(folder: Path, num_shards: int) -> None:
    """What grows with the bytes: whole shards of 224 px."""
    teacher = teacher_of(224)
    per_shard = plan_shards(config_of(MILLION, 64).resolve((3, 224, 224)), folder)[0].num_images
    config = config_of(num_shards * per_shard, 64, per_shard).resolve((3, 224, 224))
    out = folder / "dreams.h5"
    shards = plan_shards(config, out)
    attributes = shard_attributes(teacher, config, len(shards))
    rows = [random_rows(shard) for shard in shards]
    num_bytes = config.num_images * 3 * 224 * 224
    what = f"{num_shards} shards of {per_shard}, {num_bytes / 1e6:.0f} MB"
    factor = MILLION / config.num_images

    def write(rows: Sequence[DreamBatch] = rows) -> None:
        for shard, dreams in zip(shards, rows, strict=True):
            write_shard(shard.path, dreams, {**attributes, "shard": shard.number})

    facts = RunFacts(
        teacher=teacher, shards=shards, attributes=attributes, provenance={}, embed_teacher=False
    )
    journal = Journal(out, attributes, "cpu")
    show("write shards", what, timed(write), factor)
    show(
        "resume: check all shards", what, timed(lambda: missing_shards(shards, attributes)), factor
    )
    show(
        "finish: write the index",
        what,
        timed(lambda: finish_set(out, facts, None, journal)),
        factor,
    )
    show("`verify`", what, timed(lambda: verify(out)), factor)
    show("`verify --deep`", what, timed(lambda: verify(out, deep=True)), factor)
    others = folder / "others"
    others.mkdir()
    for path in (out, *(shard.path for shard in shards)):
        path.rename(others / path.name)
    write(rows[::-1])  # a set is not merged with itself
    finish_set(out, facts, None, journal)
    both = [out, others / out.name]
    merged = timed(lambda: merge(both, folder / "merged.h5"))
    show("`merge` into a new set", f"{what}, twice", merged, factor / 2)


def measure_files(folder: Path, num_shards: int) -> None:
    """What grows with the number of files: tiny shards."""
    teacher = teacher_of(8)
    config = config_of(2 * num_shards, 2, 2).resolve((3, 8, 8))
    out = folder / "dreams.h5"
    shards = plan_shards(config, out)
    attributes = shard_attributes(teacher, config, len(shards))
    for shard in shards:
        write_shard(shard.path, random_rows(shard, 8), {**attributes, "shard": shard.number})
    facts = RunFacts(
        teacher=teacher, shards=shards, attributes=attributes, provenance={}, embed_teacher=False
    )
    finish_set(out, facts, None, Journal(out, attributes, "cpu"))
    usual = len(plan_shards(config_of(MILLION, 64).resolve((3, 224, 224)), out))
    what, factor = f"{num_shards} tiny shards", usual / num_shards
    show(
        "a worker's start: is it this run?",
        what,
        timed(lambda: refuse_other_runs(out, shards, attributes)),
        factor,
    )
    show("open the set", what, timed(lambda: DreamSet.open(out)), factor)
    print(f"\n{usual:,} shards; the index of {num_shards} has {out.stat().st_size:,} bytes.")


def config_of(num_images: int, batch_size: int, shard_size: int | None = None) -> SynthesisConfig:
    """Return a config that nothing is computed with."""
    return SynthesisConfig(num_images=num_images, batch_size=batch_size, shard_size=shard_size)


def teacher_of(side: int) -> Teacher:
    """Return an untrained network that stands in for an ImageNet classifier."""
    network = build_network("resnet8", num_classes=NUM_CLASSES)
    spec = TeacherSpec(
        architecture="resnet8",
        num_classes=NUM_CLASSES,
        image_shape=(3, side, side),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        fingerprint=fingerprint(network),
    )
    return Teacher(network=network, spec=spec)


def random_rows(shard: ShardPlan, side: int = 224) -> DreamBatch:
    """Return rows that no compression could shorten."""
    draws = generator(0, "scale", shard.number)
    shape = (shard.num_images, 3, side, side)

    def numbers(high: int, *size: int) -> Tensor:
        return torch.randint(0, high, size, generator=draws)

    return DreamBatch(
        images=torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8),
        labels=numbers(NUM_CLASSES, shard.num_images),
        logits=torch.randn(shard.num_images, NUM_CLASSES, generator=draws).to(torch.float16),
        batch=numbers(100, shard.num_images).to(torch.int32),
        loss=torch.rand(shard.num_images, generator=draws),
    )


def timed(action: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    started = time.process_time()
    action()
    return time.process_time() - started


def show(name: str, what: str, seconds: float, factor: float) -> None:
    """Print a row."""
    whole = seconds * factor
    shown = f"{whole / 60:.0f} min" if whole >= 120 else f"{whole:.1f} s"
    print(f"| {name} | {what} | {seconds:.2f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
