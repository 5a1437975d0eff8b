"""Kill ``dreamforge synth`` at random moments, resume it, compare every byte. Prints a table.

    python benchmarks/kill_synth.py --n 50

Each trial starts the command in an empty folder, sends SIGKILL, SIGTERM or SIGINT at a random
moment between the start of the first shard and the end, and gives the same command again. The
result must be what an undisturbed run leaves, index and all (``SOURCE_DATE_EPOCH`` fixes the one
date in it), with nothing beside it. An exit code of -2 is CPython's: it ends by SIGINT itself when
an interrupt came while an import ran ``exec`` (a shell shows 130 for both). As root on Linux, a
disk that is really full and one that is really read-only follow, on a small tmpfs.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from shared.files import sha256_of  # noqa: E402

TEACHER = ROOT / "data" / "digits-resnet8.safetensors"
SYNTH = (
    *(sys.executable, "-m", "dreamforge", "synth", "--teacher", str(TEACHER)),
    *("--n", "96", "--batch-size", "8", "--shard-size", "8", "--steps", "60", "--device", "cpu"),
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 130
TIMEOUT_SECONDS = 600
TMPFS_BYTES = 64 * 1024  # room for some of the shards


@dataclass
class Tally:
    """What happened in the trials of one signal."""

    sent: int = 0
    in_time: int = 0  # the process was still running
    codes: Counter[int] = field(default_factory=Counter)
    shards_kept: int = 0
    made_again: int = 0  # finished shards that the resumed run made again
    leftovers: int = 0  # files beside the set in the end
    different: int = 0  # trials whose files are not those of the undisturbed run


def start(folder: Path) -> "subprocess.Popen[str]":
    """Start the command in a folder, on one thread so that moments are comparable."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.Popen(
        [*SYNTH, "--out", "dreams.h5"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path) -> tuple[int, str]:
    """Run the command to its end; return its exit code and the last line that it said."""
    _, errors = (process := start(folder)).communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, (errors.strip().splitlines() or [""])[-1]


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a folder, hidden ones included."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def undisturbed(folder: Path) -> tuple[dict[str, str], float, float]:
    """Run once; return the digests, and when the first shard and the end came, in seconds."""
    folder.mkdir()
    started = time.monotonic()
    process = start(folder)
    while process.poll() is None and not list(folder.glob("dreams-*.h5")):
        time.sleep(0.005)
    first = time.monotonic() - started
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    if process.returncode:
        raise SystemExit(f"the undisturbed run failed: {errors}")
    return digests(folder), first, time.monotonic() - started


def trial(folder: Path, how: signal.Signals, moment: float, tally: Tally) -> dict[str, str]:
    """Kill once, resume, and return what is there in the end."""
    folder.mkdir()
    process = start(folder)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        tally.in_time += 1
    process.send_signal(how)
    process.communicate(timeout=TIMEOUT_SECONDS)
    tally.sent += 1
    tally.codes[process.returncode] += 1
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("dreams-*.h5")}
    tally.shards_kept += len(kept)
    code, message = finish(folder)
    if code:
        print(f"resuming failed with {code}: {message}", file=sys.stderr)
    tally.made_again += sum(path.stat().st_mtime_ns != at for path, at in kept.items())
    return digests(folder)


def kill_often(folder: Path, num_trials: int, seed: int) -> int:
    """Print the table of all trials; return how many went wrong."""
    expected, first, end = undisturbed(folder / "undisturbed")
    draws = random.Random(seed)
    tallies = {how: Tally() for how in SIGNALS}
    for number in range(num_trials):
        how, moment = draws.choice(SIGNALS), draws.uniform(0.7 * first, end)
        place = folder / f"trial-{number}"
        found = trial(place, how, moment, tallies[how])
        wrong = {name for name in expected if found.get(name) != expected[name]}
        tallies[how].different += bool(wrong)
        tallies[how].leftovers += len(found.keys() - expected.keys())
        shutil.rmtree(place)
    print(f"The undisturbed run takes {end:.1f} s, the first of its 12 shards {first:.1f} s.\n")
    print(
        "| signal | sent | while running | exit codes | shards kept | of these made again "
        "| files left over | different from undisturbed |"
    )
    print("|---|--:|--:|---|--:|--:|--:|--:|")
    for how, tally in tallies.items():
        codes = ", ".join(f"{code} ({count})" for code, count in sorted(tally.codes.items()))
        print(
            f"| {how.name} | {tally.sent} | {tally.in_time} | {codes} | {tally.shards_kept} "
            f"| {tally.made_again} | {tally.leftovers} | {tally.different} |"
        )
    return sum(t.different + t.leftovers + t.made_again for t in tallies.values())


def mount(folder: Path, options: str) -> bool:
    """Mount or remount a tmpfs; return whether that was allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fill_a_disk(folder: Path, expected: dict[str, str]) -> int:
    """Run on a disk that is too small, then read-only, then large enough; print what it said."""
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or not mount(folder, f"size={TMPFS_BYTES}"):
        print("\nDisk full and read-only: not tried, mounting a tmpfs needs root.")
        return 0
    print("\n| tmpfs | exit code | last line on stderr | shards |\n|---|--:|---|--:|")
    wrong = 0
    try:
        steps = (("", f"{TMPFS_BYTES // 1024} KiB"), ("ro", "read-only"), ("rw,size=64m", "64 MiB"))
        for options, name in steps:
            if options:
                mount(folder, f"remount,{options}")
            code, message = finish(folder)
            num_shards = len(list(folder.glob("dreams-*.h5")))
            print(f"| {name} | {code} | {message if code else '-'} | {num_shards} |")
            wrong += code != (0 if name == "64 MiB" else 1)
        same = digests(folder) == expected
    finally:
        subprocess.run(["umount", str(folder)], check=False)
    print(f"\nIn the end {'the' if same else 'NOT the'} bytes of the undisturbed run.")
    return wrong + (not same)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=50, help="trials")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    # A shell starts background jobs with SIGINT ignored, and our children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"`python benchmarks/kill_synth.py --n {chosen.n} --seed {chosen.seed}`")
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wrong = kill_often(folder, chosen.n, chosen.seed)
        wrong += fill_a_disk(folder / "disk", digests(folder / "undisturbed"))
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
