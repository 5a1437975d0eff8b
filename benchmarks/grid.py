"""Every transfer set at every sparsity and seed through ``recover run``: what is there stays.

A grid is a folder. ``real-0.h5`` is the transfer set called real of seed 0, ``real-0-s0.9`` a run
of recovery on it; ``real.json`` holds how they were asked for, so that figures of two settings
never end up in one table. Any of them may be missing: the same command makes the rest.
"""

import json
import shlex
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runner import Runner

from recover.folder import RunFolder
from recover.report import RecoveryReport
from recover.results import read_report
from shared.errors import ConfigError, IncompatibleError, InputFileError
from shared.files import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One kind of transfer set.

    Attributes:
        name: Of its files.
        make: The command that makes a set, but for ``--seed`` and ``--out``.
        recover: Options of ``recover run`` on it, but for teacher, sparsity, seed and folders.
    """

    name: str
    make: tuple[str, ...]
    recover: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of recovery."""

    source: str
    sparsity: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """All cells, in a folder.

    Attributes:
        out: The folder.
        sources: Kinds of transfer sets.
        levels: Sparsities, ascending.
        seeds: Of the sets, and of the recoveries on them.
        common: Options of every ``recover run``: teacher and images to judge by.
    """

    out: Path
    sources: tuple[Source, ...]
    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    common: tuple[str, ...]
    _locks: defaultdict[Path, threading.Lock] = field(
        default_factory=lambda: defaultdict(threading.Lock), init=False, repr=False
    )

    def cells(self) -> list[Cell]:
        """Return all cells, seed by seed: the table of the first seed is there early."""
        return [
            Cell(source=source.name, sparsity=level, seed=seed)
            for seed in self.seeds
            for level in self.levels
            for source in self.sources
        ]

    def set_path(self, source: str, seed: int) -> Path:
        """Return the index of a transfer set; it is there once the set is finished."""
        return self.out / f"{source}-{seed}.h5"

    def run_path(self, cell: Cell) -> Path:
        """Return the folder of a run."""
        return self.out / f"{cell.source}-{cell.seed}-s{cell.sparsity:g}"

    def reports(self) -> dict[Cell, RecoveryReport]:
        """Return the reports of the cells that are finished.

        Raises:
            InputFileError: If one of them cannot be read.
        """
        folders = {cell: self.run_path(cell) for cell in self.cells()}
        return {
            cell: read_report(folder)
            for cell, folder in folders.items()
            if RunFolder(folder, {}).is_finished
        }

    def claim(self) -> None:
        """Record how each source is made and used.

        Raises:
            IncompatibleError: If one was begun in this folder with other options.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        for source in self.sources:
            path = self.out / f"{source.name}.json"
            now = {
                "make": shlex.join(source.make),
                "recover": shlex.join([*self.common, *source.recover]),
            }
            before = _read_settings(path) if path.exists() else now
            for name, value in now.items():
                if before.get(name) != value:
                    raise IncompatibleError(
                        f"{path}: begun with '{before.get(name)}', now '{value}'; repeat the "
                        "first command, or choose another --out"
                    )
            write_json(path, now)

    def tasks(
        self, runner: Runner, examine: Callable[[str, int], None] | None = None
    ) -> dict[str, Callable[[], None]]:
        """Return what is left to do, by name.

        Args:
            runner: Runs the commands.
            examine: Called once for every source and seed, when its set is there.
        """
        tasks: dict[str, Callable[[], None]] = {}
        sources = {source.name: source for source in self.sources}
        for seed in self.seeds:
            if examine is not None:
                for name, source in sources.items():
                    task = partial(self._examine, runner, source, seed, examine)
                    tasks[f"{name}, seed {seed}: the set"] = task
            for cell in self.cells():
                if cell.seed == seed and not RunFolder(self.run_path(cell), {}).is_finished:
                    task = partial(self._recover, runner, sources[cell.source], cell)
                    tasks[f"{cell.source}, seed {seed}, sparsity {cell.sparsity:g}"] = task
        return tasks

    def _examine(
        self, runner: Runner, source: Source, seed: int, examine: Callable[[str, int], None]
    ) -> None:
        self._make_set(runner, source, seed)
        examine(source.name, seed)

    def _recover(self, runner: Runner, source: Source, cell: Cell) -> None:
        dreams, folder = self._make_set(runner, source, cell.seed), self.run_path(cell)
        command = ["recover", "run", *self.common, *source.recover, "--dreams", str(dreams)]
        command += ["--sparsity", f"{cell.sparsity:g}", "--seed", str(cell.seed)]
        runner.run(folder.name, [*command, "--out", str(folder)])

    def _make_set(self, runner: Runner, source: Source, seed: int) -> Path:
        path = self.set_path(source.name, seed)
        with self._locks[path]:  # the first of several levels makes it, the others wait
            if not path.exists():
                command = [*source.make, "--seed", str(seed), "--out", str(path)]
                runner.run(path.stem, command)
        return path


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``0,1,2``.

    Raises:
        ConfigError: If it is anything else, or has one of them twice.
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise ConfigError(f"--seeds: found {text!r}, expected different numbers, such as 0,1,2")
    return tuple(int(part) for part in parts)


def of_source(
    reports: dict[Cell, RecoveryReport], source: str, sparsity: float, seeds: Sequence[int]
) -> dict[int, RecoveryReport]:
    """Return the finished reports of one source and level, by seed."""
    cells = {seed: Cell(source=source, sparsity=sparsity, seed=seed) for seed in seeds}
    return {seed: reports[cell] for seed, cell in cells.items() if cell in reports}


def accuracies(reports: dict[int, RecoveryReport]) -> list[float]:
    """Return the accuracy of each run's last step, a fraction."""
    found = [report.recovered.accuracy for report in reports.values()]
    return [accuracy for accuracy in found if accuracy is not None]


def _read_settings(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path}: not readable ({error}); remove it, or the folder") from error
    if not isinstance(found, dict):
        raise InputFileError(f"{path}: not the settings of a benchmark; choose another --out")
    return found
