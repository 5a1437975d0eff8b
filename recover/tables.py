"""The tables of a report as plain text: what the terminal, the page and Markdown all show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recover.bounds import bound_name, bound_of, comparable
from recover.costs import Costs
from recover.measures import judged_alike, judged_on_real, measure_of, value_of, what_is_measured
from recover.report import STAGES, ClassRecord, RecoveryReport
from recover.results import Result
from shared.manifest import printable

NOTHING = "-"
MOST_CLASSES = 30
MOST_LABELLED = 200  # characters of a name in a figure, which takes no surrogates either
LEAST_FULL_SHADE = 0.1  # a class that loses less is never the darkest there can be


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells of plain text: whoever renders them escapes them.

    Attributes:
        title: Above it.
        columns: Heads; the first column names the row.
        rows: Of as many cells.
        shades: In [0, 1] per cell, 1 for what deserves the eye, None for no shade; or empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shades: tuple[tuple[float | None, ...], ...] = ()


def labels_of(results: Sequence[Result], among: Sequence[Result] = ()) -> list[str]:
    """Return ``90 %`` for every run, or its student; with its folder where that says too little.

    Args:
        results: The runs.
        among: All runs of the page, if these are some of them: one has one name all over it.
    """
    alike: dict[str, list[Path]] = {}
    for result in among or results:
        alike.setdefault(_label(result), []).append(result.folder)
    plain = [_label(result) for result in results]
    labels = [
        f"{text} {_told_apart(result.folder, alike[text])}" if len(alike[text]) > 1 else text
        for text, result in zip(plain, results, strict=True)
    ]
    return [printable(label, MOST_LABELLED) for label in labels]


def _told_apart(folder: Path, all_folders: Sequence[Path]) -> str:
    """Return the shortest end of a path that no other one of the folders shares: ``a/s0.5``."""
    others = {other.parts for other in all_folders} - {folder.parts}
    for count in range(1, len(folder.parts)):
        if all(other[-count:] != folder.parts[-count:] for other in others):
            return Path(*folder.parts[-count:]).as_posix()
    return folder.as_posix()


def are_other_students(results: Sequence[Result]) -> bool:
    """Return whether no run taught a copy of the teacher with all of its channels."""
    return all(result.report.student is not None for result in results)


def levels_table(results: Sequence[Result], bounds: Sequence[Result] = ()) -> Table:
    """Return one row per run: how good the network is at every stage, and the bound.

    There is no bound, and no gap, where it was not measured as the runs were.
    """
    measure = measure_of(results)
    known_bounds = comparable(results, bounds)
    students = are_other_students(results)
    kinds = {tuple(result.report.shown_stages) for result in results}
    names = kinds.pop() if len(kinds) == 1 else STAGES
    columns = ["student" if students else "sparsity", *names]
    with_area = all(result.report.recovered.auroc is not None for result in results)
    if measure == "accuracy":
        columns += ["AUROC", "agreement"] if with_area else ["agreement"]
    if bounds:
        columns += [bound_name(results, bounds), "gap"]
    rows = []
    for label, result in zip(labels_of(results), results, strict=True):
        report = result.report
        stages = (report.stages if names == STAGES else report.shown_stages).values()
        row = [label, *(percent(value_of(stage, measure)) for stage in stages)]
        if measure == "accuracy":
            row += [f"{report.recovered.auroc:.4f}"] if with_area else []
            row.append(percent(report.recovered.agreement))
        if bounds:
            best = bound_of(result, known_bounds, measure)
            found = value_of(report.recovered, measure)
            known = best is not None and found is not None
            row += [percent(best), f"{100 * (found - best):+.2f}" if known else NOTHING]  # type: ignore[operator]
        rows.append(tuple(row))
    return Table(title=what_is_measured(results), columns=tuple(columns), rows=tuple(rows))


def level_of(report: RecoveryReport) -> str:
    """Return what was pruned of the student's network: ``90 %``, or ``50 % of channels``."""
    if report.config.get("channels") is not None:
        return str(report.student)
    if report.config.get("pattern") is not None:
        return f"{report.config['pattern']} ({100 * report.sparsity:.4g} %)"
    return f"{100 * report.sparsity:.4g} %"


def _label(result: Result) -> str:
    report = result.report
    if isinstance(report.config.get("student"), str):
        return f"{report.student} {level_of(report)}" if report.sparsity else str(report.student)
    return level_of(report)


def costs_table(results: Sequence[Result]) -> Table | None:
    """Return one row per run: storage, multiply-adds and latency; None where none is known.

    Where a student has another architecture or fewer channels, the teacher is the first row.
    """
    rows = [row for result in results if (row := _teacher_row(result.report)) is not None][:1]
    for label, result in zip(labels_of(results), results, strict=True):
        report, costs = result.report, result.report.costs
        if costs is None:
            continue
        rows.append(
            (
                label,
                f"{report.num_kept:,} of {report.num_weights:,}",
                num_bytes(costs.num_bytes_dense),
                num_bytes(costs.num_bytes_packed),
                num_bytes(costs.num_bytes_gzip),
                f"{costs.macs_sparse / 1e6:,.4g} M of {costs.macs_dense / 1e6:,.4g} M",
                f"{1e3 * costs.seconds_student:.3g} ms",
                f"{1e3 * costs.seconds_teacher:.3g} ms",
            )
        )
    columns = (
        "student" if are_other_students(results) else "sparsity",
        *("weights left", "dense", "packed", "gzip"),
        *("multiply-adds left", "latency", "teacher's latency"),
    )
    return Table(title="", columns=columns, rows=tuple(rows)) if rows else None


def _teacher_row(report: RecoveryReport) -> tuple[str, ...] | None:
    costs = report.costs
    if report.student is None or costs is None or costs.macs_teacher is None:
        return None
    return (
        "teacher",
        f"{costs.num_weights_teacher or 0:,}",
        num_bytes(costs.num_bytes_teacher or 0),
        *(NOTHING, NOTHING),
        f"{costs.macs_teacher / 1e6:,.4g} M",
        f"{1e3 * costs.seconds_teacher:.3g} ms",
        NOTHING,
    )


def layers_table(results: Sequence[Result], among: Sequence[Result] = ()) -> Table:
    """Return one row per layer: which part of it is pruned, run by run, called as ``among`` all."""
    pruned = [
        {layer.name: 1 - layer.kept / max(_size(layer.shape), 1) for layer in result.report.layers}
        for result in results
    ]
    shapes = {
        layer.name: layer.shape for result in reversed(results) for layer in result.report.layers
    }
    rows, shades = [], []
    for name, shape in shapes.items():
        values = [run.get(name) for run in pruned]
        rows.append((name, "x".join(map(str, shape)), *map(percent, values)))
        shades.append((None, None, *values))
    columns = ("layer", "shape", *labels_of(results, among))
    return Table(title="", columns=columns, rows=tuple(rows), shades=tuple(shades))


def with_classes(results: Sequence[Result], measure: str) -> list[Result]:
    """Return the runs whose classes were measured, on the images that ``measure`` is of if any."""
    measured = [result for result in results if result.report.classes]
    fitting = [run for run in measured if judged_on_real(run) == (measure == "accuracy")]
    return fitting or measured


def classes_table(results: Sequence[Result], chosen: Result, among: Sequence[Result] = ()) -> Table:
    """Return the classes that pay most: how often the student still sees them as the teacher does.

    Sorted by agreement in the run ``chosen``, whose classes were measured, the lowest first,
    :data:`MOST_CLASSES` at most. Runs that were judged on other images have no figures. All are
    called as ``among`` all runs of the page.
    """
    measured = [result for result in results if result.report.classes]
    by_run = [
        {entry.label: entry for entry in result.report.classes}
        if judged_alike(result, chosen)
        else {}
        for result in measured
    ]
    seen = [entry for entry in chosen.report.classes if entry.agreement is not None]
    worst = sorted(seen, key=lambda entry: (entry.agreement or 0.0, entry.label))[:MOST_CLASSES]
    names = class_names(chosen)
    rows, shades = [], []
    for entry in worst:
        values = [run[entry.label].agreement if entry.label in run else None for run in by_run]
        rows.append(
            (
                names(entry.label),
                f"{entry.num_images:,}",
                *map(percent, values),
                _confusion(entry, names),
                *_true_accuracies(entry),
            )
        )
        lost = [None if value is None else 1 - value for value in values]
        shades.append((None, None, *lost, None, None, None))
    columns = (
        *("class", "images", *labels_of(measured, among), "taken for"),
        *("teacher right", "student right"),
    )
    kept = len(columns) if any(entry.accuracy is not None for entry in worst) else -2
    cut = slice(None, kept) if kept < 0 else slice(None)
    return Table(
        title="",
        columns=columns[cut],
        rows=tuple(row[cut] for row in rows),
        shades=_relative([row[cut] for row in shades]),
    )


def class_names(result: Result) -> Callable[[int], str]:
    """Return the function from a label to the name that the report records, or its number."""
    names = result.fact("teacher", "class_names")

    def name(label: int) -> str:
        known = isinstance(names, list) and 0 <= label < len(names)
        return str(names[label]) if known else f"class {label}"

    return name


def percent(fraction: float | None) -> str:
    """Return ``81.60 %``, or a dash for None."""
    return NOTHING if fraction is None else f"{100 * fraction:.2f} %"


def num_bytes(count: int) -> str:
    """Return ``1.09 MB``: powers of a thousand, as file managers and disks have them."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def facts_table(facts: Mapping[str, object]) -> Table:
    """Return a list of facts without heads; unknown ones are left out."""
    rows = tuple((name, str(value)) for name, value in facts.items() if value not in (None, ""))
    return Table(title="", columns=("", ""), rows=rows)


def _confusion(entry: ClassRecord, names: Callable[[int], str]) -> str:
    if entry.confused_with is None:
        return NOTHING
    return f"{names(entry.confused_with)} ({entry.num_confused:,})"


def _true_accuracies(entry: ClassRecord) -> tuple[str, str]:
    return percent(entry.teacher_accuracy), percent(entry.accuracy)


def _relative(shades: Sequence[tuple[float | None, ...]]) -> tuple[tuple[float | None, ...], ...]:
    """Return the shades as parts of the strongest, unless even that one is weak."""
    most = max([LEAST_FULL_SHADE, *(value for row in shades for value in row if value is not None)])
    return tuple(tuple(None if v is None else v / most for v in row) for row in shades)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def beside_teacher(costs: Costs) -> str:
    """Return what a student of its own size costs, next to its teacher, as a sentence."""
    macs, size = costs.macs_teacher or 0, num_bytes(costs.num_bytes_teacher or 0)
    return (
        f"one image costs {costs.macs_dense / 1e6:,.4g} M multiply-adds, in the teacher "
        f"{macs / 1e6:,.4g} M; its weights take {num_bytes(costs.num_bytes_dense)}, the teacher's "
        f"{size}; an image takes {1e3 * costs.seconds_student:.3g} ms, the teacher "
        f"{1e3 * costs.seconds_teacher:.3g} ms (one at a time, {costs.device})"
    )
