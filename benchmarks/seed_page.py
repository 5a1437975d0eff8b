"""The table of the seed paper as Markdown: whatever is finished of it. See ``seed_table.py``."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grid import Cell, accuracies, gaps, of_source
from grid_curves import curves
from plots import Panel
from runner import command_line
from seed_plan import EQUAL, OURS, REAL, SEED, Network, Plan, synthesis_seconds
from summary import counted, markdown, percent, spread

from recover.report import RecoveryReport
from shared.manifest import Manifest
from shared.shards import read_index

Reports = Mapping[Cell, RecoveryReport]
REPAIRING = (OURS, REAL)  # the published recipe repairs nothing, the fourth like the second
GOALS = "at most 1 point at 75 %, 2 at 90 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is finished of one network, at least one run.

    Attributes:
        network: Which.
        reports: Of the finished runs.
        sets: Manifests of the finished sets, by recipe and seed.
    """

    network: Network
    reports: Reports
    sets: Mapping[tuple[str, int], Manifest]

    def runs(self, recipe: str, level: float) -> dict[int, RecoveryReport]:
        """Return the finished runs of a recipe at a level, by seed."""
        return of_source(self.reports, recipe, level, self.network.grid.seeds)

    @property
    def teacher(self) -> float:
        """Accuracy of the teacher, a fraction."""
        accuracy = next(iter(self.reports.values())).teacher.accuracy
        assert accuracy is not None  # every run has --eval-data
        return accuracy

    @property
    def recipes(self) -> list[str]:
        """Those asked for."""
        return [source.name for source in self.network.grid.sources]


def find(plan: Plan) -> list[Found]:
    """Return the networks that have finished runs; of sets, the index alone is looked at.

    Raises:
        InputFileError: If a report cannot be read.
        DreamSetError: If an index cannot be.
    """
    found = []
    for network in plan.networks:
        reports, grid = network.grid.reports(), network.grid
        keys = [(source.name, seed) for source in grid.sources for seed in grid.seeds]
        paths = {key: grid.set_path(*key) for key in keys}
        sets = {key: read_index(path).manifest for key, path in paths.items() if path.exists()}
        if reports:
            found.append(Found(network=network, reports=reports, sets=sets))
    return found


def render(plan: Plan, found: Sequence[Found]) -> str:
    """Return everything that is printed, as Markdown.

    Args:
        plan: What was asked for.
        found: What is finished of it, at least one network.
    """
    num_done = sum(len(each.reports) for each in found)
    num_asked = sum(len(network.grid.cells()) for network in plan.networks)
    num_images = next(iter(found[0].reports.values())).provenance.get("num_eval_images")
    parts = [
        f"Accuracy of the last step in % on {num_images} real images, mean ± standard deviation "
        f"over seeds {', '.join(map(str, plan.seeds))}; {num_done} of {num_asked} runs are "
        f"finished, `-`: not run. {what_is_equal(plan)}\n",
        f"Points that `{OURS}` is above the teacher (the goal: below it by {GOALS}):\n",
        _by_level(plan, found, _above_teacher),
    ]
    if {SEED, EQUAL} <= {*found[0].recipes}:
        parts += [
            f"Points that `{EQUAL}` is above `{SEED}`, seed by seed (the goal: above 0):\n",
            _by_level(plan, found, _above_seed),
        ]
    by_name = {each.network.name: each for each in found}
    for network in plan.networks:
        parts += _section(plan, network, by_name.get(network.name))
    return "\n".join([*parts, _origin(found)])


def what_is_equal(plan: Plan) -> str:
    """Return what the recipes have in common."""
    own = plan.options.equal_options
    updates = f"recovery of its own, `{own}`" if own else f"the updates of `{SEED}`"
    return (
        f"`{SEED}` is the recipe of arXiv:2511.20702; `{OURS}` and `{REAL}` have equal numbers of "
        f"images and of updates; `{EQUAL}` has the synthesis seconds of `{SEED}` at most, at the "
        f"rates measured, and {updates}. What each took stands below its network."
    )


def panels(found: Sequence[Found]) -> list[Panel]:
    """Return a panel for each network."""
    return [
        Panel(
            title=each.network.name,
            curves=tuple(curves(each.network.grid, each.reports)),
            teacher=each.teacher,
        )
        for each in found
    ]


def accuracy_table(plan: Plan, found: Found) -> str:
    """Return accuracy by level: pruned, repaired, and recovered by each recipe."""
    repairing = [recipe for recipe in REPAIRING if recipe in found.recipes]
    rows = []
    for level in plan.levels:
        runs = {recipe: found.runs(recipe, level) for recipe in found.recipes}
        every = [report for reports in runs.values() for report in reports.values()]
        pruned = {report.pruned.accuracy for report in every}
        cells = [percent(sorted(value for value in pruned if value is not None))]
        for recipe in repairing:
            repaired = [report.repaired.accuracy for report in runs[recipe].values()]
            cells.append(_of_seeds(plan, [value for value in repaired if value is not None]))
        cells += [_of_seeds(plan, accuracies(reports)) for reports in runs.values()]
        kept = f"{every[0].num_kept:,}" if every else "-"
        rows.append([f"{100 * level:g} %", kept, *cells])
    head = ["sparsity", "weights kept", "pruned", *(f"repaired, {recipe}" for recipe in repairing)]
    return markdown([*head, *(f"recovered, {recipe}" for recipe in found.recipes)], rows)


def work_table(plan: Plan, found: Found) -> str:
    """Return what each recipe took, and what a point that it brought back has cost."""
    top = plan.levels[-1]
    rows = []
    for recipe in found.recipes:
        sets = [found.sets[recipe, s] for s in plan.seeds if (recipe, s) in found.sets]
        reports = [report for cell, report in found.reports.items() if cell.source == recipe]
        timed = [(m.num_images, s) for m in sets if (s := synthesis_seconds(m)) is not None]
        known = [m.quality["teacher_accuracy"] for m in sets if "teacher_accuracy" in m.quality]
        config = reports[0].config if reports else {}
        rows.append(
            [
                recipe,
                spread([m.num_images for m in sets], 0),
                spread([seconds for _, seconds in timed]),
                spread([number / seconds for number, seconds in timed]),
                percent(known),
                f"{config['steps']} of {config['batch_size']}" if config else "-",
                spread([report.seconds for report in reports]),
                spread(_seconds_per_point(found, recipe, top)),
            ]
        )
    head = ["recipe", "images", "synthesis, s", "images/s", "recognized, %", "updates"]
    return markdown([*head, "recovery, s", f"s per point at {100 * top:g} %"], rows)


def _section(plan: Plan, network: Network, found: Found | None) -> list[str]:
    if found is None:
        return [f"**{network.name}**: not run.\n"]
    weights = next(iter(found.reports.values())).num_weights
    title = (
        f"**{network.name}**: teacher {percent([found.teacher])} %, {weights:,} prunable weights\n"
    )
    return [title, accuracy_table(plan, found), work_table(plan, found)]


def _by_level(
    plan: Plan, found: Sequence[Found], points: Callable[[Found, float], list[float]]
) -> str:
    rows = []
    for each in found:
        values = [points(each, level) for level in plan.levels]
        cells = [_of_seeds(plan, value, in_percent=False) for value in values]
        rows.append([each.network.name, *cells])
    return markdown(["network", *(f"{100 * level:g} %" for level in plan.levels)], rows)


def _above_teacher(found: Found, level: float) -> list[float]:
    runs = found.runs(OURS, level) if OURS in found.recipes else {}
    return [100 * (accuracy - found.teacher) for accuracy in accuracies(runs)]


def _above_seed(found: Found, level: float) -> list[float]:
    return gaps(found.runs(EQUAL, level), found.runs(SEED, level))


def _of_seeds(plan: Plan, values: Sequence[float], *, in_percent: bool = True) -> str:
    text = percent(values) if in_percent else spread(values)
    return counted(text, len(values), len(plan.seeds))


def _seconds_per_point(found: Found, recipe: str, level: float) -> list[float]:
    costs = []
    for seed, report in found.runs(recipe, level).items():
        manifest = found.sets.get((recipe, seed))
        seconds = synthesis_seconds(manifest) if manifest is not None else None
        before, after = report.pruned.accuracy, report.recovered.accuracy
        if seconds is not None and before is not None and after is not None and after > before:
            costs.append((seconds + report.seconds) / (100 * (after - before)))
    return costs


def _origin(found: Sequence[Found]) -> str:
    """Return the commands of the first network's sets, devices and versions, and the command."""
    lines = [
        f"- {source.name}: `{shlex.join(source.make)}`; recover run `{shlex.join(source.recover)}`"
        for source in found[0].network.grid.sources
    ]
    machines = []
    for each in found:
        for report in each.reports.values():
            origin = report.provenance
            versions = ", ".join(f"{k} {v}" for k, v in (origin.get("versions") or {}).items())
            machines.append(f"- {origin.get('device')}; {versions}")
    return "\n".join([*lines, *dict.fromkeys(machines), f"- `{command_line()}`", ""])
