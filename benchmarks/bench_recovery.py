"""How far from real training images: one pipeline, several transfer sets, accuracy by sparsity.

    python benchmarks/bench_recovery.py --teacher resnet20.pt --eval-data cifar/test \
        --real cifar/train --out runs/bound --seeds 0,1,2
    python benchmarks/bench_recovery.py (the same) --render

Every set goes through the same ``recover run`` with as many updates, or all its levels through
one ``recover sweep`` (``--sweep``): dreams, real training images
(the bound), and what dreams must beat: white noise, 1/f noise (``fractal``), dead leaves, the
``scenes`` that dreams start from. ``seed`` is the recipe of arXiv:2511.20702 as published, the
presets ``tripurwar2025`` of both tools: 1,024 dreams, 480 updates at 1e-3, BatchNorm statistics
left as they are. Accuracy is that of the last step on real images; nothing is chosen on them.

What is finished is read from its report and never run again: the same command goes on after an
interruption, and sets, levels and seeds can be added. --render shows what is there.

From the same reports comes how well the number that a user without real images has (agreement
with the teacher on held-out dreams) ranks the runs by their accuracy.
"""

import argparse
import shlex
from collections.abc import Sequence
from statistics import mean

from grid import Cell, Grid, Source, accuracies, gaps, of_source, parse_seeds
from grid_curves import curves
from grid_options import add_grid_options, add_judged_teacher, add_published_options, parse_names
from plots import plot_against_sparsity
from recipes import DRAWN, PUBLISHED, drawn_words, dream_words, published_words, real_words
from runner import Runner, command_line, ending_well, say
from summary import (
    counted,
    markdown,
    percent,
    rank_correlation,
    signed,
    spread,
)

from recover.levels import parse_sparsities
from recover.report import RecoveryReport
from shared.errors import ConfigError
from shared.files import write_text

Reports = dict[Cell, RecoveryReport]
SETS = ("real", "dreams", *DRAWN, "seed")
BOUND = "real"


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_judged_teacher(parser)
    parser.add_argument("--real", help="training images, a folder per class, for the set 'real'")
    parser.add_argument("--sets", default="real,dreams,noise,leaves,seed", help=", ".join(SETS))
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="one 'recover sweep' per set: levels start from each other, but those of 'seed'",
    )
    add_grid_options(parser, sparsity="0.5,0.75,0.8,0.9,0.95,0.98", num_images=4096)
    add_published_options(parser)
    return parser.parse_args(words)


def plan(arguments: argparse.Namespace) -> Grid:
    """Return what the command line asks for.

    Raises:
        ConfigError: If that makes no sense.
    """
    names = parse_names("--sets", arguments.sets, SETS)
    if BOUND in names and arguments.real is None:
        raise ConfigError("--real is missing: the training images for 'real'; or leave it out")
    teacher = ("--teacher", arguments.teacher, *shlex.split(arguments.teacher_options))
    return Grid(
        out=arguments.out,
        sources=tuple(source_of(name, teacher, arguments) for name in names),
        levels=parse_sparsities(arguments.sparsity),
        seeds=parse_seeds(arguments.seeds),
        common=(*teacher, "--eval-data", arguments.eval_data),
        sweeps=arguments.sweep,
    )


def source_of(name: str, teacher: tuple[str, ...], arguments: argparse.Namespace) -> Source:
    """Return how the set called ``name`` is made, and what recovery is told on it."""
    number = ("--n", str(arguments.n))
    recover = ("--steps", str(arguments.steps), *shlex.split(arguments.recover_options))
    if name == "seed":
        number, recover = ("--n", str(arguments.seed_n)), ("--preset", PUBLISHED)
        if arguments.sweep:
            recover = (*recover, "--no-warm-start")  # as published
        make = published_words()
    elif name == "dreams":
        make = dream_words(arguments.synth_steps, arguments.synth_options)
    else:
        make = real_words(arguments.real) if name == BOUND else drawn_words(name)
    return Source(name=name, make=(*make, *teacher, *number), recover=recover)


def render(grid: Grid, reports: Reports) -> str:
    """Return everything that is printed, as Markdown.

    Args:
        grid: What was asked for.
        reports: What is finished of it, at least one.
    """
    first = next(iter(reports.values()))
    spec = first.provenance.get("teacher") or {}
    accuracy = first.teacher.accuracy
    assert accuracy is not None  # --eval-data is required
    seeds = ", ".join(map(str, grid.seeds))
    parts = [
        f"{spec.get('architecture')}, teacher {percent([accuracy])} % on "
        f"{first.provenance.get('num_eval_images')} real images. Accuracy of the last step in %, "
        f"mean ± standard deviation over seeds {seeds}; {len(reports)} of {len(grid.cells())} "
        f"runs are finished.{_starts(grid)}\n",
        accuracy_table(grid, reports),
    ]
    if any(source.name == BOUND for source in grid.sources):
        parts += ["Points above the bound, real images, seed by seed:\n", gap_table(grid, reports)]
    parts += [
        "Data-free selection: Spearman's rank correlation of agreement on held-out images of the "
        "transfer set with accuracy on real images, over the runs on data-free sets:\n",
        ranking_table(grid, reports),
        notes(grid, reports),
    ]
    return "\n".join(parts)


def _starts(grid: Grid) -> str:
    if not grid.sweeps:
        return ""
    cold = ", but those of 'seed'" if any(s.name == "seed" for s in grid.sources) else ""
    return f" Levels are those of sweeps: each starts from the student of the level below{cold}."


def accuracy_table(grid: Grid, reports: Reports) -> str:
    """Return accuracy by level, source by source."""
    rows = []
    for level in grid.levels:
        runs = {s.name: of_source(reports, s.name, level, grid.seeds) for s in grid.sources}
        kept = {report.num_kept for found in runs.values() for report in found.values()}
        cells = [
            counted(percent(accuracies(found)), len(found), len(grid.seeds))
            for found in runs.values()
        ]
        rows.append([f"{100 * level:g} %", f"{max(kept):,}" if kept else "-", *cells])
    return markdown(["sparsity", "weights kept", *(s.name for s in grid.sources)], rows)


def gap_table(grid: Grid, reports: Reports) -> str:
    """Return how far each source is above the bound; only seeds that have both count."""
    others = [source.name for source in grid.sources if source.name != BOUND]
    rows = []
    for level in grid.levels:
        bound = of_source(reports, BOUND, level, grid.seeds)
        cells = []
        for name in others:
            points = gaps(of_source(reports, name, level, grid.seeds), bound)
            cells.append(counted(spread(points), len(points), len(grid.seeds)))
        rows.append([f"{100 * level:g} %", *cells])
    return markdown(["sparsity", *others], rows)


def ranking_table(grid: Grid, reports: Reports) -> str:
    """Return how well agreement on held-out dreams ranks runs by real accuracy."""
    free = {cell: report for cell, report in reports.items() if cell.source != BOUND}
    groups = {
        f"{100 * level:g} % sparsity, all sets": [c for c in free if c.sparsity == level]
        for level in grid.levels
    }
    groups["all levels, all sets"] = list(free)
    for source in grid.sources:
        if source.name != BOUND:
            groups[f"all levels, {source.name}"] = [c for c in free if c.source == source.name]
    rows = []
    for name, cells in groups.items():
        pairs = [
            (report.recovered.agreement_on_dreams, report.recovered.accuracy)
            for report in (free[cell] for cell in cells)
        ]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if len(known) > 2:  # of fewer, ranks say nothing
            correlation = rank_correlation([a for a, _ in known], [b for _, b in known])
            rows.append([name, str(len(known)), signed(correlation)])
    return markdown(["runs", "how many", "Spearman"], rows)


def notes(grid: Grid, reports: Reports) -> str:
    """Return one line for each source, and where the figures come from."""
    lines = []
    for source in grid.sources:
        found = [report for cell, report in reports.items() if cell.source == source.name]
        if found:
            made = found[0].provenance.get("dreams") or {}
            lines.append(
                f"- {source.name}: {made.get('num_images')} images, {found[0].config['steps']} "
                f"updates of {found[0].config['batch_size']}, {mean(r.seconds for r in found):.0f} "
                f"s a run; `{shlex.join(source.make)}`"
            )
    origin = next(iter(reports.values())).provenance
    versions = ", ".join(f"{k} {v}" for k, v in (origin.get("versions") or {}).items())
    return "\n".join([*lines, f"- {origin.get('device')}; {versions}", f"- `{command_line()}`", ""])


def main() -> int:
    """Run what is missing, then print and write what is there; 1 if something failed."""
    arguments = parse_arguments()
    grid = plan(arguments)
    failures: list[str] = []
    if not arguments.render:
        grid.claim()
        runner = Runner(arguments.jobs, grid.out / "logs")
        failures = runner.run_all(grid.tasks(runner))
    reports = grid.reports()
    if not reports:
        raise ConfigError(f"{grid.out}: no finished run in it yet; run without --render")
    text = render(grid, reports)
    write_text(grid.out / "table.md", text)
    first = next(iter(reports.values()))
    title = f"{(first.provenance.get('teacher') or {}).get('architecture')}, pruned and recovered"
    plot = grid.out / "accuracy.png"
    plot_against_sparsity(curves(grid, reports), first.teacher.accuracy or 0.0, plot, title=title)
    print(text)
    for failure in failures:
        say(f"failed: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    ending_well(main)
