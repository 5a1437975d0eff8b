"""Is ``dreamforge synth --estimate`` right? Prints its figure beside the time of the same run.

    OMP_NUM_THREADS=1 python benchmarks/bench_estimate.py --teacher resnet20.pt --n 512 --steps 40

Arguments are those of ``dreamforge synth``. Both are counted in CPU seconds of all threads, so that
other processes on the machine do not matter; give one thread, or waiting threads count as well.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The estimate reads its own clock: here one that stands still while others compute.
ESTIMATE = """
import sys, time
time.perf_counter = time.process_time
from dreamforge.cli import main
main(sys.argv[1:])
"""


def cpu_seconds_of(command: list[str]) -> tuple[float, str]:
    """Run a command; return the CPU seconds it took and its standard output."""
    before = os.times()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    after = os.times()
    children = after.children_user + after.children_system
    return children - before.children_user - before.children_system, done.stdout


def main() -> None:
    """Estimate, run, compare."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "synth",
            *sys.argv[1:],
            "--device",
            "cpu",
            "--out",
            f"{folder}/dreams.h5",
            "--json",
        ]
        started = time.monotonic()
        cost, text = cpu_seconds_of([sys.executable, "-c", ESTIMATE, *words, "--estimate"])
        estimated = 3600 * json.loads(text)["hours"]
        taken, _ = cpu_seconds_of([sys.executable, "-m", "dreamforge", *words])
    print("| | CPU seconds |\n|---|---|")
    print(f"| estimated | {estimated:.1f} |\n| taken | {taken:.1f} |")
    print(f"| error | {estimated / taken - 1:+.1%} |\n| to estimate | {cost:.1f} |")
    print(f"\n{time.monotonic() - started:.0f} seconds on the wall for both.")


if __name__ == "__main__":
    main()
