"""What a second of synthesis buys: recipes compared by the students that their dreams teach.

    python benchmarks/bench_quality.py --teacher resnet20.pt --eval-data cifar/test \
        --second resnet56.th --out runs/quality --recipes "s200=--steps 200;white=--init white"

A recipe is a name and flags of ``dreamforge synth``. Each makes a set per seed, and each set goes
through the same ``recover run``. Beside the accuracy on real images stand what can be measured
without a student (see ``dream_quality.py``): BatchNorm distance, diversity within a class (mean
cosine distance of the teacher's last features, and their effective rank), and who recognises the
dreams: the teacher, and a second network that had no part in them. What is finished is not run
again; --render shows what is there.
"""

import argparse
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from grid import Cell, Grid, Source, accuracies, of_source, parse_seeds
from grid_options import add_grid_options, add_judged_teacher
from plots import Curve, plot_against_seconds
from runner import Runner, command_line, ending_well, say
from summary import counted, markdown, percent, spread, standard_deviation

from recover.levels import parse_sparsities
from recover.report import RecoveryReport
from shared.errors import ConfigError, InputFileError
from shared.files import write_text

Reports = dict[Cell, RecoveryReport]
Qualities = dict[tuple[str, int], dict[str, Any]]
RECIPES = (
    "s50=--steps 50;s100=--steps 100;s200=--steps 200;s400=--steps 400;"
    "pixels=--space pixels --init pink --lr 0.2;"
    "yin2020=--preset yin2020-cifar10;tripurwar2025=--preset tripurwar2025"
)
REAL = "(real images)"


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_judged_teacher(parser)
    parser.add_argument("--second", help="checkpoint of another network of the same task")
    parser.add_argument("--recipes", default=RECIPES, help="'NAME=FLAGS;NAME=FLAGS'")
    add_grid_options(parser, sparsity="0.9,0.95", num_images=1024)
    return parser.parse_args(words)


def parse_recipes(text: str) -> dict[str, tuple[str, ...]]:
    """Return the flags of each recipe in ``name=flags;name=flags``.

    Raises:
        ConfigError: If it is anything else, or has a name twice.
    """
    recipes: dict[str, tuple[str, ...]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, equals, flags = part.partition("=")
        if not equals or not re.fullmatch(r"\w[\w.+]*", name) or name in recipes:
            raise ConfigError(
                f"--recipes: found {part!r}, expected NAME=FLAGS with a new name of letters, "
                "digits, '.', '_' and '+'"
            )
        recipes[name] = tuple(shlex.split(flags))
    if not recipes:
        raise ConfigError("--recipes: found none, expected 'NAME=FLAGS;NAME=FLAGS'")
    return recipes


def plan(arguments: argparse.Namespace) -> Grid:
    """Return what the command line asks for.

    Raises:
        ConfigError: If that makes no sense.
    """
    teacher = ("--teacher", arguments.teacher, *shlex.split(arguments.teacher_options))
    recover = ("--steps", str(arguments.steps), *shlex.split(arguments.recover_options))
    synth = ("dreamforge", "synth", *teacher, "--n", str(arguments.n))
    return Grid(
        out=arguments.out,
        sources=tuple(
            Source(name=name, make=(*synth, *flags), recover=recover)
            for name, flags in parse_recipes(arguments.recipes).items()
        ),
        levels=parse_sparsities(arguments.sparsity),
        seeds=parse_seeds(arguments.seeds),
        common=(*teacher, "--eval-data", arguments.eval_data),
    )


class Examiner:
    """Measures each set once, in a process of its own; the measures stay beside the set."""

    def __init__(self, grid: Grid, second: str | None, runner: Runner) -> None:
        self._grid = grid
        self._options = [*grid.common, *(["--second", second] if second else [])]
        self._suffix = f"-{Path(second).stem}" if second else ""
        self._runner = runner

    def path(self, source: str, seed: int) -> Path:
        """Return where the measures of a set are."""
        return self._grid.out / f"{source}-{seed}-quality{self._suffix}.json"

    def measure(self, source: str, seed: int) -> None:
        """Measure a finished set, if that was not done before."""
        path, dreams = self.path(source, seed), self._grid.set_path(source, seed)
        if not path.exists():
            command = ["dream_quality", "measure", str(dreams), *self._options, "--out", str(path)]
            self._runner.run(path.stem, command)

    def read(self) -> Qualities:
        """Return what is measured so far.

        Raises:
            InputFileError: If a file of measures cannot be read.
        """
        keys = [(source.name, seed) for source in self._grid.sources for seed in self._grid.seeds]
        paths = {key: self.path(*key) for key in keys}
        return {key: _read_json(path) for key, path in paths.items() if path.exists()}


def render(grid: Grid, reports: Reports, qualities: Qualities) -> str:
    """Return everything that is printed, as Markdown; something of it must be finished."""
    head = ["recipe", "synthesis, s", *(f"{100 * level:g} %" for level in grid.levels)]
    head += ["BatchNorm distance", "diversity", "effective rank", "teacher", "second network"]
    rows = [_row(grid, source, reports, qualities) for source in grid.sources]
    references = [quality["real"] for quality in qualities.values()]
    if references:
        rows.append([REAL, *["-"] * (1 + len(grid.levels)), *_measures(references[:1])])
    seeds = ", ".join(map(str, grid.seeds))
    parts = [
        f"Accuracy of the recovered student on real images by sparsity, in %, mean ± standard "
        f"deviation over seeds {seeds}; {len(reports)} of {len(grid.cells())} runs are finished. "
        "BatchNorm distance: KL in nats over random batches of 256 stored dreams. Diversity: mean "
        "cosine distance of two images of a class in the teacher's last features. Teacher and "
        "second network: top-1 on the dreams.\n",
        markdown(head, rows),
    ]
    parts += [f"- {source.name}: `{shlex.join(source.make)}`\n" for source in grid.sources]
    return "\n".join([*parts[:2], "".join(parts[2:]) + _origin(reports)])


def curves(grid: Grid, reports: Reports, qualities: Qualities) -> list[Curve]:
    """Return accuracy against seconds: a line for recipes that differ in ``--steps`` only."""
    found = []
    for level in grid.levels:
        families: dict[tuple[str, ...], list[tuple[float, list[float], str]]] = defaultdict(list)
        for source in grid.sources:
            seconds = _seconds(grid, source, qualities)
            values = accuracies(of_source(reports, source.name, level, grid.seeds))
            if seconds and values:
                point = (mean(seconds), values, source.name)
                families[without_steps(source.make)].append(point)
        for points in families.values():
            points.sort(key=lambda point: point[0])
            names = tuple(name for _, _, name in points)
            found.append(
                Curve(
                    name=f"{100 * level:g} %: {', '.join(names)}",
                    x=tuple(seconds for seconds, _, _ in points),
                    mean=tuple(mean(values) for _, values, _ in points),
                    deviation=tuple(standard_deviation(values) for _, values, _ in points),
                    labels=names,
                )
            )
    return found


def without_steps(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command without its ``--steps N``."""
    return tuple(shlex.split(re.sub(r"--steps[ =]\d+", "", shlex.join(words))))


def _row(grid: Grid, source: Source, reports: Reports, qualities: Qualities) -> list[str]:
    cells = [source.name, spread(_seconds(grid, source, qualities), 0)]
    for level in grid.levels:
        found = accuracies(of_source(reports, source.name, level, grid.seeds))
        cells.append(counted(percent(found), len(found), len(grid.seeds)))
    mine = [qualities.get((source.name, seed)) for seed in grid.seeds]
    return [*cells, *_measures([quality["dreams"] for quality in mine if quality])]


def _measures(records: list[dict[str, Any]]) -> list[str]:
    def column(name: str) -> list[float]:
        return [record[name] for record in records if record[name] is not None]

    return [
        spread(column("bn_distance"), 3),
        spread(column("diversity"), 3),
        spread(column("effective_rank")),
        percent(column("teacher_accuracy")),
        percent(column("second_accuracy")),
    ]


def _seconds(grid: Grid, source: Source, qualities: Qualities) -> list[float]:
    found = [qualities.get((source.name, seed), {}) for seed in grid.seeds]
    return [quality["synthesis_seconds"] for quality in found if quality.get("synthesis_seconds")]


def _origin(reports: Reports) -> str:
    lines = [f"- `{command_line()}`", ""]
    if reports:
        origin = next(iter(reports.values())).provenance
        spec = origin.get("teacher") or {}
        versions = ", ".join(f"{k} {v}" for k, v in (origin.get("versions") or {}).items())
        lines.insert(
            0,
            f"- {spec.get('architecture')}, {origin.get('num_eval_images')} real images; "
            f"{origin.get('device')}; {versions}",
        )
    return "\n".join(lines)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path}: not readable ({error}); remove it and repeat") from error
    return found


def main() -> int:
    """Run what is missing, then print and write what is there; 1 if something failed."""
    arguments = parse_arguments()
    grid = plan(arguments)
    failures: list[str] = []
    runner = Runner(arguments.jobs, grid.out / "logs")
    examiner = Examiner(grid, arguments.second, runner)
    if not arguments.render:
        grid.claim()
        failures = runner.run_all(grid.tasks(runner, examiner.measure))
    reports, qualities = grid.reports(), examiner.read()
    if not reports and not qualities:
        raise ConfigError(f"{grid.out}: nothing finished in it yet; run without --render")
    text = render(grid, reports, qualities)
    write_text(grid.out / "table.md", text)
    points = curves(grid, reports, qualities)
    if points:
        title = "What a second of synthesis buys, by sparsity"
        plot_against_seconds(points, grid.out / "accuracy.png", title=title)
    print(text)
    for failure in failures:
        say(f"failed: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    ending_well(main)
