"""Progress on stderr: bars on a terminal, a line every half minute elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from shared.cli import say
from shared.progress import Progress, ProgressCallback
from shared.signals import raise_lost

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress_display() -> Iterator[ProgressCallback]:
    """Yield a callback that shows progress: a bar on a terminal, else a line every 30 s.

    A dumb terminal cannot move its cursor and gets lines, too.
    """
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _line_printer(time.monotonic)
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[facts]}"),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def show(report: Progress) -> None:
        raise_lost()
        if report.stage not in tasks:
            tasks[report.stage] = bars.add_task(report.stage, total=report.total, done="", facts="")
        bars.update(
            tasks[report.stage],
            completed=report.done,
            total=report.total,
            done=f"{report.done:g}/{report.total:g} {report.unit}",
            facts=_facts(report),
        )

    with bars:
        yield show


def _line_printer(clock: Callable[[], float]) -> ProgressCallback:
    """Print a report when its stage starts to move, ends, or was silent for half a minute."""
    begun: dict[str, tuple[float, float]] = {}  # stage -> (seconds, done) at the first report
    printed: dict[str, float] = {}

    def show(report: Progress) -> None:
        raise_lost()
        now = clock()
        started, done_before = begun.setdefault(report.stage, (now, report.done))
        finished = report.done >= report.total
        if not finished and now - printed.get(report.stage, started) < SECONDS_BETWEEN_LINES:
            return
        printed[report.stage] = now
        rate = (report.done - done_before) / max(now - started, 1e-9)
        eta = "" if finished or rate <= 0 else f", eta {(report.total - report.done) / rate:.0f} s"
        say(f"{report.stage}: {report.done:g}/{report.total:g} {report.unit}{eta}{_facts(report)}")

    return show


def _facts(report: Progress) -> str:
    return "".join(f"  {name} {value:.4g}" for name, value in report.facts.items())
