"""Every transfer set at every sparsity and seed through ``recover``: what is there stays.

A grid is a folder. ``real-0.h5`` is the transfer set called real of seed 0, ``real-0-s0.9`` a run
of recovery on it, ``real-0-sweep/s0.9`` a level of the sweep on it. ``real.json`` holds how they
were asked for, so that figures of two settings never end up in one table. Any of them may be
missing: the same command makes the rest.
"""

import shlex
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from budget import read_record
from runner import Runner

from recover.folder import RunFolder
from recover.report import RecoveryReport
from recover.results import read_report
from shared.errors import ConfigError, IncompatibleError
from shared.files import write_json

Prepare = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One kind of transfer set.

    Attributes:
        name: Of its files.
        make: The command that makes a set, but for ``--seed`` and ``--out``.
        recover: Options of ``recover`` on it, but for teacher, sparsity, seed and folders.
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
        common: Options of every ``recover``: teacher and images to judge by.
        sweeps: All levels of a source and a seed are one ``recover sweep``, whose levels start
            from each other as they usually do; if not, each is a ``recover run`` by itself.
        prefix: Of the names of logs, such as ``resnet20/``.
    """

    out: Path
    sources: tuple[Source, ...]
    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    common: tuple[str, ...]
    sweeps: bool = False
    prefix: str = ""
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
        if self.sweeps:
            return self._sweep_path(cell.source, cell.seed) / f"s{cell.sparsity:g}"
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
            before = read_record(path, "settings") if path.exists() else now
            for name, value in now.items():
                if before.get(name) != value:
                    raise IncompatibleError(
                        f"{path}: begun with '{before.get(name)}', now '{value}'; repeat the "
                        "first command, or choose another --out"
                    )
            write_json(path, now)

    def tasks(
        self,
        runner: Runner,
        examine: Callable[[str, int], None] | None = None,
        prepare: Prepare | None = None,
    ) -> dict[str, Callable[[], None]]:
        """Return what is left to do, by name.

        Args:
            runner: Runs the commands.
            examine: Called once for every source and seed, when its set is there.
            prepare: See :meth:`make_set`.
        """
        tasks: dict[str, Callable[[], None]] = {}
        for seed in self.seeds:
            if examine is not None:
                for source in self.sources:
                    task = partial(self._examine, runner, source.name, seed, examine, prepare)
                    tasks[f"{source.name}, seed {seed}: the set"] = task
            for cell in self.cells():
                if cell.seed == seed and not RunFolder(self.run_path(cell), {}).is_finished:
                    name = f"{cell.source}, seed {seed}"
                    if self.sweeps:
                        tasks[name] = partial(self._sweep, runner, cell, prepare)
                    else:
                        task = partial(self._recover, runner, cell, prepare)
                        tasks[f"{name}, sparsity {cell.sparsity:g}"] = task
        return tasks

    def make_set(
        self, runner: Runner, name: str, seed: int, prepare: Prepare | None = None
    ) -> Path:
        """Make a transfer set, unless it is there; return its index.

        Args:
            runner: Runs the command.
            name: Of the source.
            seed: Of the set.
            prepare: Called before a set is made, while nobody else makes it: gets the name of
                the source and the seed, and returns more options of the command.
        """
        path = self.set_path(name, seed)
        with self._locks[path]:  # the first of several levels makes it, the others wait
            if not path.exists():
                more = prepare(name, seed) if prepare is not None else ()
                command = [*self._source(name).make, *more, "--seed", str(seed)]
                runner.run(f"{self.prefix}{path.stem}", [*command, "--out", str(path)])
        return path

    def _source(self, name: str) -> Source:
        return next(source for source in self.sources if source.name == name)

    def _examine(
        self,
        runner: Runner,
        name: str,
        seed: int,
        examine: Callable[[str, int], None],
        prepare: Prepare | None,
    ) -> None:
        self.make_set(runner, name, seed, prepare)
        examine(name, seed)

    def _recover(self, runner: Runner, cell: Cell, prepare: Prepare | None) -> None:
        self._run(runner, "run", (cell.sparsity,), cell, self.run_path(cell), prepare)

    def _sweep(self, runner: Runner, cell: Cell, prepare: Prepare | None) -> None:
        folder = self._sweep_path(cell.source, cell.seed)
        self._run(runner, "sweep", self.levels, cell, folder, prepare)

    def _run(
        self,
        runner: Runner,
        tool: str,
        levels: Sequence[float],
        cell: Cell,
        folder: Path,
        prepare: Prepare | None,
    ) -> None:
        dreams = self.make_set(runner, cell.source, cell.seed, prepare)
        command = ["recover", tool, *self.common, *self._source(cell.source).recover]
        command += ["--dreams", str(dreams)]
        command += ["--sparsity", ",".join(f"{level:g}" for level in levels)]
        command += ["--seed", str(cell.seed), "--out", str(folder)]
        runner.run(f"{self.prefix}{folder.name}", command)

    def _sweep_path(self, source: str, seed: int) -> Path:
        return self.out / f"{source}-{seed}-sweep"


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
    reports: Mapping[Cell, RecoveryReport], source: str, sparsity: float, seeds: Sequence[int]
) -> dict[int, RecoveryReport]:
    """Return the finished reports of one source and level, by seed."""
    cells = {seed: Cell(source=source, sparsity=sparsity, seed=seed) for seed in seeds}
    return {seed: reports[cell] for seed, cell in cells.items() if cell in reports}


def accuracies(reports: dict[int, RecoveryReport]) -> list[float]:
    """Return the accuracy of each run's last step, a fraction."""
    found = [report.recovered.accuracy for report in reports.values()]
    return [accuracy for accuracy in found if accuracy is not None]


def gaps(found: dict[int, RecoveryReport], bound: dict[int, RecoveryReport]) -> list[float]:
    """Return by how many points each run is above that of the same seed, where there is one."""
    return [
        100 * (accuracies({seed: report})[0] - accuracies({seed: bound[seed]})[0])
        for seed, report in found.items()
        if seed in bound
    ]
