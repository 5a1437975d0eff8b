"""What a report says, in order, before it looks like anything: text, tables and figures."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recover import figures
from recover.bounds import REAL_IMAGES, bound_name, comparable
from recover.costs import NOTE
from recover.figures import Line
from recover.measures import judged_alike, judged_on_real, measure_of, value_of, what_is_measured
from recover.origin import facts_of_origin, subtitle
from recover.page_texts import chosen_of, words_for_left_out, words_for_stages
from recover.results import Result
from recover.series import curves, line_of, series
from recover.tables import (
    Table,
    are_other_students,
    classes_table,
    costs_table,
    facts_table,
    labels_of,
    layers_table,
    levels_table,
    percent,
    with_classes,
)

STAGES = ("pruned", "repaired", "recovered")
ORIGIN = "Where it comes from, and how to repeat it"  # of every page, in all versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page. Every string but the figure is plain text, whatever is in it.

    Attributes:
        title: Its heading.
        paragraphs: Text.
        figure: An ``<svg>`` element, or None.
        png: An image's bytes, or None.
        tables: Below the figure.
        commands: To be copied.
        folded: Whether the tables are long and stay closed until somebody opens them.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    figure: str | None = None
    png: bytes | None = None
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report: its title, a line below it, and its parts."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def compose(
    results: Sequence[Result],
    bounds: Sequence[Result] = (),
    *,
    title: str = "Recovery report",
    preview: bytes | None = None,
    remarks: Sequence[str] = (),
) -> Page:
    """Return the page of some runs.

    Args:
        results: By sparsity, at least one, all of one teacher.
        bounds: The same on real images, or none.
        title: Of the page.
        preview: PNG of the dreams.
        remarks: On what was left out.
    """
    shown, measure = curves(results), measure_of(results)
    parts = (
        _results(results, bounds, remarks),
        _stages(shown, results, measure),
        _losses(shown, results),
        _layers(shown, results),
        _classes(shown, results),
        _costs(results),
        _preview(preview, results),
        _provenance(results, bounds),
        _settings(results),
    )
    sections = tuple(part for part in parts if part is not None)
    return Page(title=title, subtitle=subtitle(results[0]), sections=sections)


def _results(
    results: Sequence[Result], bounds: Sequence[Result], remarks: Sequence[str]
) -> Section:
    measure = measure_of(results)
    known_bounds, bound = comparable(results, bounds), bound_name(results, bounds)
    teacher = value_of(results[0].report.teacher, measure)
    lines = [line_of(name, runs, measure) for name, runs in series(results).items()]
    if known_bounds:
        lines.append(line_of(f"{bound} (bound)", known_bounds, measure, is_bound=True))
    text = list(words_for_stages(results))
    if known_bounds:
        meaning = (
            "Real images: the same runs with real images in place of dreams; the gap, in points, "
            "is what dreams cost."
        )
        other = f"{bound}: other runs to compare with; the gap, in points, is what they are ahead."
        text.append(meaning if bound == REAL_IMAGES else other)
    warnings = dict.fromkeys(text for result in results for text in result.report.warnings)
    text += [f"Remark: {remark}" for remark in (*remarks, *warnings)]
    drawn = [line for line in lines if line.x]
    if are_other_students(results) and not any(run.report.part_removed for run in results):
        drawn = []  # nothing is pruned: there is no axis to draw along
    return Section(
        title=what_is_measured(results),
        paragraphs=tuple(text),
        figure=figures.against_sparsity(drawn, teacher, measure) if drawn else None,
        tables=(levels_table(results, bounds),),
    )


def _stages(shown: Sequence[Result], all_runs: Sequence[Result], measure: str) -> Section | None:
    results = [result for result in shown if result.report.student is None]
    values = [
        (stage, [value_of(result.report.stages[stage], measure) for result in results])
        for stage in STAGES
    ]
    if all(value is None for _, stage in values for value in stage):
        return None
    teacher = value_of(results[0].report.teacher, measure)
    gains = [
        100 * (after - before)
        for before, after in zip(values[0][1], values[1][1], strict=True)
        if before is not None and after is not None
    ]
    text = "No run measured the repair."
    if gains:
        least, most = f"{min(gains):+.1f}", f"{max(gains):+.1f}"
        text = (
            "Re-estimating the BatchNorm statistics needs no training step. Here it changed the "
            f"{measure} by {least if least == most else f'{least} to {most}'} points."
        )
    return Section(
        title="What repair and distillation give",
        paragraphs=(text, *words_for_left_out(results, all_runs)),
        figure=figures.stages(labels_of(results), values, teacher, measure),
    )


def _losses(shown: Sequence[Result], all_runs: Sequence[Result]) -> Section | None:
    results = [run for run in shown if run.losses]
    lines = [
        Line(name=label, x=tuple(x for x, _ in run.losses), y=tuple(y for _, y in run.losses))
        for label, run in zip(labels_of(results), results, strict=True)
    ]
    if not lines:
        return None
    text = (
        "The distance of the student's softened answers from the teacher's, a mean over the steps "
        "between two points. It rises while a gradual schedule prunes."
    )
    return Section(
        title="Distillation loss",
        paragraphs=(text, *words_for_left_out(results, all_runs)),
        figure=figures.losses(lines),
    )


def _layers(shown: Sequence[Result], all_runs: Sequence[Result]) -> Section | None:
    # A student that was never to be pruned has nothing to show here.
    results = [run for run in shown if run.report.student is None or run.report.sparsity > 0]
    if not results:
        return None
    lines = [
        Line(
            name=label,
            x=tuple(range(1, len(run.report.layers) + 1)),
            y=tuple(_pruned(layer.shape, layer.kept) for layer in run.report.layers),
        )
        for label, run in zip(labels_of(results), results, strict=True)
    ]
    return Section(
        title="Which layers are pruned",
        paragraphs=(
            "Every convolution and linear layer, by how much of it is zero.",
            *_extremes(*chosen_of(results, all_runs)),
            *words_for_left_out(results, all_runs),
        ),
        figure=figures.by_layer(lines),
        tables=(layers_table(results, all_runs),),
        folded=True,
    )


def _extremes(result: Result, label: str) -> Iterator[str]:
    layers = sorted(result.report.layers, key=lambda layer: _pruned(layer.shape, layer.kept))
    if len(layers) > 1:
        least, most = (
            f"{e.name} ({percent(_pruned(e.shape, e.kept))})" for e in layers[:: len(layers) - 1]
        )
        yield f"Of {label}, {least} loses the smallest part, {most} the largest."


def _pruned(shape: Sequence[int], kept: int) -> float:
    size = 1
    for side in shape:
        size *= side
    return 1 - kept / max(size, 1)


def _classes(shown: Sequence[Result], all_runs: Sequence[Result]) -> Section | None:
    measured = with_classes(shown, measure_of(all_runs))
    if not measured:
        return None
    chosen, label = chosen_of(measured, all_runs)
    on_real = judged_on_real(chosen)
    text = (
        f"Of the {'real images' if on_real else 'held-out dreams'} that the teacher puts into a "
        "class, how many the student puts there, too; the classes that pay most come first. "
        f"Taken for: what the student says instead, that of {label}."
    )
    if any(run.report.classes and not judged_alike(run, chosen) for run in shown):
        text += " Runs that were judged on other images have a dash."
    listed = [run for run in shown if run.report.classes]
    paragraphs = (text, *words_for_left_out(listed, all_runs))
    table = classes_table(shown, chosen, all_runs)
    return Section(title="Which classes pay", paragraphs=paragraphs, tables=(table,))


def _costs(results: Sequence[Result]) -> Section | None:
    table = costs_table(results)
    known = [result.report.costs for result in results if result.report.costs is not None]
    if table is None:
        return None
    machines = dict.fromkeys(f"{costs.device}, median of {costs.num_runs} runs" for costs in known)
    text = (
        *([NOTE] if any(result.report.sparsity for result in results) else []),
        "Dense: all values as float32. Packed: a bit for every prunable weight, and the values "
        "that are not zero. Gzip: the student's tensors as safetensors, through gzip -6. "
        "Multiply-adds are those of one image; one is two floating-point operations.",
        f"Latency: one image at a time, teacher and student in turns, on {'; '.join(machines)}.",
    )
    return Section(title="What it saves, and what it does not", paragraphs=text, tables=(table,))


def _preview(png: bytes | None, results: Sequence[Result]) -> Section | None:
    if png is None:
        return None
    text = "What the students were taught with: images made from the teacher's weights alone."
    if any(result.fact("unlabeled") for result in results):
        text = "Images made from the teacher's weights alone; some students saw real ones, too."
    return Section(title="The dreams", paragraphs=(text,), png=png)


def _provenance(results: Sequence[Result], bounds: Sequence[Result]) -> Section:
    commands = dict.fromkeys(
        str(result.fact("command")) for result in (*results, *bounds) if result.fact("command")
    )
    return Section(
        title=ORIGIN,
        tables=(facts_table(facts_of_origin(chosen_of(results, results)[0])),),
        commands=tuple(commands),
    )


def _settings(results: Sequence[Result]) -> Section:
    result, label = chosen_of(results, results)
    settings = {
        "--" + name.replace("_", "-"): value if isinstance(value, str) else json.dumps(value)
        for name, value in result.report.config.items()
    }
    return Section(title=f"Settings of {label}", tables=(facts_table(settings),), folded=True)
