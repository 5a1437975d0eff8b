"""Our command lines as subprocesses: several at a time, each with a log, all ended together."""

import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from shared.cli import format_duration
from shared.errors import DreamforgeError

TOOLS = ("dreamforge", "recover")
HERE = Path(__file__).resolve().parent


class OutOfTimeError(DreamforgeError):
    """A command that was not begun because the time for beginning commands is over."""


class Runner:
    """Runs commands on equal shares of the cores this process may use.

    A command begins with one of our tools, or with a script of this folder without its suffix.

    Attributes:
        num_late: Tasks of :meth:`run_all` that were not finished because their time was over.

    Args:
        jobs: How many run at a time.
        logs: Folder for what they print.
        seconds: After which no command is begun any more; those that run go on to their end.
    """

    def __init__(self, jobs: int, logs: Path, seconds: float | None = None) -> None:
        self.num_late = 0
        self._jobs = jobs
        self._logs = logs
        self._ends = math.inf if seconds is None else time.monotonic() + seconds
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run one command and wait for it; its output is added to the log ``name``.

        Raises:
            OutOfTimeError: If it is too late to begin it.
            DreamforgeError: If it fails; with the last line it printed.
        """
        self.refuse_late()
        path = self._logs / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            process = self._start(command, log.fileno())
            try:
                status = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
        if status:
            raise DreamforgeError(f"exit status {status}: {_last_line(path)} ({path})")

    def refuse_late(self) -> None:
        """Raise an OutOfTimeError if it is too late to begin a command."""
        if time.monotonic() >= self._ends:
            raise OutOfTimeError("not begun: the time for that is over")

    def run_all(self, tasks: Mapping[str, Callable[[], None]]) -> list[str]:
        """Run all tasks in their order, ``jobs`` at a time, and say on stderr how it goes.

        One that fails does not end the others. On Ctrl-C or SIGTERM the commands that run are told
        to save what they have, and those that wait are not begun.

        Returns:
            A line for each task that failed.
        """
        started, failures = time.monotonic(), []
        with _sigterm_interrupts(), ThreadPoolExecutor(self._jobs) as pool:
            futures = {pool.submit(task): name for name, task in tasks.items()}
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    error, name = future.exception(), futures[future]
                    if isinstance(error, OutOfTimeError):
                        self.num_late += 1
                        continue
                    if error is not None and not isinstance(error, DreamforgeError):
                        raise error
                    if error is not None:
                        failures.append(f"{name}: {error}")
                    seconds = time.monotonic() - started
                    left = seconds / number * (len(tasks) - number)
                    say(
                        f"[{number}/{len(tasks)}] {name}: {error or 'done'}; "
                        f"{format_duration(seconds)} so far, about {format_duration(left)} to go"
                    )
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise
        return failures

    def _start(self, command: Sequence[str], log: int) -> subprocess.Popen[bytes]:
        share = max(1, len(os.sched_getaffinity(0)) // self._jobs)  # taskset leaves fewer cores
        tool, *arguments = command
        program = ["-m", tool] if tool in TOOLS else [str(HERE / f"{tool}.py")]
        with self._lock:
            if self._is_stopped:
                raise DreamforgeError("not begun: the benchmark is being ended")
            process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                env={"OMP_NUM_THREADS": str(share), **os.environ, "PYTHONPATH": _python_path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches this process alone, which passes it on once: a second signal would
                # keep the tools from saving.
                start_new_session=True,
            )
            self._running.add(process)
        return process

    def _stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            say(f"ending: {len(self._running)} running commands save what they have")
            for process in self._running:
                process.terminate()


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def command_line() -> str:
    """Return the command that runs this benchmark again."""
    return "python " + shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def ending_well(main: Callable[[], int]) -> None:
    """Run ``main``; exit with its status, or with one line and the status of its error."""
    try:
        sys.exit(main())
    except DreamforgeError as error:
        say(f"{Path(sys.argv[0]).name}: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on from here: {command_line()}")
        sys.exit(130)


def _python_path() -> str:
    """Let commands import the packages of this checkout, whatever is installed."""
    return os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
