"""Throw mutated dream sets at the reader: ``python benchmarks/fuzz_reader.py --n 20000``.

Each file must be refused with one line of DreamSetError, or read as what was written. Crashes of
libhdf5 end the run (the file is kept in --keep), hangs are stopped after 20 s. Prints a table.
"""

import argparse
import faulthandler
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from dreamset_fixtures import tiny_dreams, write_dream_set  # noqa: E402

from shared.device import peak_num_bytes  # noqa: E402
from shared.dreams import FIELDS, DreamBatch  # noqa: E402
from shared.errors import DreamSetError  # noqa: E402
from shared.shards import read_index, read_shard, read_teacher  # noqa: E402

HANG_SECONDS = 20
METADATA_BYTES = 2600  # where most of it lies, and most of what can go wrong
NUMBERS = (b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f", (2**31).to_bytes(8, "little"))


def mutate(data: bytes, draws: random.Random) -> bytes:
    """Return ``data`` after 1 to 16 random changes; half of them hit the metadata."""
    changed = bytearray(data)
    for _ in range(draws.choice((1, 1, 1, 2, 4, 16))):
        if len(changed) < 2:
            break
        near = draws.random() < 0.5
        at = draws.randrange(min(len(changed), METADATA_BYTES) if near else len(changed))
        kind = draws.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << draws.randrange(8)
        elif kind == 1:
            changed[at] = draws.randrange(256)
        elif kind == 2:
            changed[at : at + 8] = draws.choice(NUMBERS)
        elif kind == 3:
            source, length = draws.randrange(len(changed)), draws.randrange(64)
            changed[at : at + length] = changed[source : source + length]
        elif kind == 4:
            del changed[at : at + draws.randrange(32)]
        elif kind == 5:
            changed[at:at] = draws.randbytes(draws.randrange(16))
        else:
            del changed[max(1, at) :]
    return bytes(changed)


def same_rows(found: DreamBatch, expected: DreamBatch) -> bool:
    """Whether all five arrays are equal."""
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name, _, _ in FIELDS)


def cases(folder: Path) -> list[tuple[str, bytes, Callable[[Path], bool]]]:
    """Return (name, bytes of a good file, reads a file and says whether it is as written)."""
    plain, packed = folder / "plain", folder / "gzip"
    for target, compression in ((plain, False), (packed, True)):
        target.mkdir()
        write_dream_set(target, num_shards=1, teacher=b"w" * 100, compression=compression)
    index, shard = read_index(plain / "dreams.h5"), "dreams-00000-of-00001.h5"

    def index_is_same(path: Path) -> bool:
        found = read_index(path)
        read_teacher(path)
        return found.manifest == index.manifest and torch.equal(found.labels, index.labels)

    def shard_is_same(path: Path) -> bool:
        return same_rows(read_shard(path), tiny_dreams())

    return [
        ("index", (plain / "dreams.h5").read_bytes(), index_is_same),
        ("shard", (plain / shard).read_bytes(), shard_is_same),
        ("gzip shard", (packed / shard).read_bytes(), shard_is_same),
    ]


def main() -> int:
    """Fuzz, print, and return 1 if anything was read wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_last.h5"))
    arguments = parser.parse_args()
    faulthandler.enable()
    draws = random.Random(arguments.seed)
    counts: Counter[tuple[str, str]] = Counter()
    slowest, started = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sources = cases(Path(folder))
        for number in range(arguments.n):
            name, data, is_same = sources[number % len(sources)]
            arguments.keep.write_bytes(mutate(data, draws))
            before = time.monotonic()
            signal.alarm(HANG_SECONDS)
            try:
                outcome = "as written" if is_same(arguments.keep) else "WRONG"
            except DreamSetError:
                outcome = "refused"
            signal.alarm(0)
            slowest = max(slowest, time.monotonic() - before)
            counts[name, outcome] += 1
            if outcome == "WRONG":
                arguments.keep.rename(f"fuzz_wrong_{number}.h5")
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:12} {outcome:12} {count:8}")
    peak = peak_num_bytes(torch.device("cpu")) / 2**20
    print(
        f"{arguments.n} files in {time.monotonic() - started:.0f} s, "
        f"slowest {slowest * 1e3:.0f} ms, peak memory {peak:.0f} MiB (torch is most of it)"
    )
    arguments.keep.unlink(missing_ok=True)
    return int(any(outcome == "WRONG" for _, outcome in counts))


if __name__ == "__main__":
    raise SystemExit(main())
