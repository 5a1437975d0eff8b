"""Which runs are one curve: those that differ in sparsity and seed only."""

import json
from collections.abc import Sequence
from contextlib import suppress

from recover.figures import NUM_COLORS, Line
from recover.measures import value_of
from recover.results import Result
from recover.tables import MOST_LABELLED
from recover.usual import usual_allocation, usual_importance
from shared.manifest import printable

UNIMPORTANT = ("sparsity", "seed", "device", "checkpoint_every")  # one line for all of them


def curves(results: Sequence[Result]) -> list[Result]:
    """Return a run for every kind of student and level, as many as there are colors.

    Of several series of a kind, those of the first; of too many levels, the most pruned.
    """
    levels: dict[tuple[object, ...], dict[float, Result]] = {}
    for group in series(results).values():
        if group[0].report.kind not in levels:
            found = levels.setdefault(group[0].report.kind, {})
            for result in group:
                found.setdefault(result.report.level, result)
    kinds = [list(found.values()) for found in levels.values()]
    while sum(map(len, kinds)) > NUM_COLORS:
        max(kinds, key=len).pop(0)
    return [result for kind in kinds for result in kind]


def series(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the runs that differ in sparsity and seed only, by a name that tells them apart."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        settings = {k: v for k, v in result.report.config.items() if k not in UNIMPORTANT}
        # Levels of one sweep have numbers of their own: what counts is that they have one.
        for name in ("warm_start", "channels"):
            settings[name] = settings.get(name) is not None
        with suppress(KeyError):  # reports of other versions
            config = result.report.config  # levels differ in what is usual, and belong together
            if settings["allocation"] == usual_allocation(config):
                settings["allocation"] = None
            if settings["importance"] == usual_importance(config):
                settings["importance"] = None
        taught_on = [result.fact(name, "digest") for name in ("dreams", "unlabeled")]
        key = json.dumps([settings, taught_on], sort_keys=True)
        groups.setdefault(key, []).append(result)
    members = list(groups.values())
    if len(members) == 1:
        return {"recovered on dreams": members[0]}
    for naming in (_student_name, _dreams_name, _parent_name, _folder_name):
        names = [naming(group[0]) for group in members]
        if len(set(names)) == len(names):
            return dict(zip(names, members, strict=True))
    return {f"{_parent_name(group[0])} {n}": group for n, group in enumerate(members, 1)}


def _student_name(result: Result) -> str:
    name, has_channels, pattern = result.report.kind
    if has_channels:
        return "fewer channels"
    return name or pattern or "pruned teacher"


def _dreams_name(result: Result) -> str:
    name = str(result.fact("dreams", "path") or "dreams").rpartition("/")[2].removesuffix(".h5")
    num_others = result.fact("unlabeled", "num_images")
    return name if num_others is None else f"{name} and {num_others} real images"


def _parent_name(result: Result) -> str:
    return result.folder.resolve().parent.name


def _folder_name(result: Result) -> str:
    return result.folder.name


def line_of(name: str, results: Sequence[Result], measure: str, *, is_bound: bool = False) -> Line:
    """Return the mean over seeds at each level, and their range where there are several.

    Levels are what was asked for; a point lies at the mean part of the weights that is removed,
    which channels of another seed can differ in.

    Args:
        name: Of the curve.
        results: Its runs.
        measure: ``accuracy`` or ``agreement``.
        is_bound: Whether it is the real-data bound.
    """
    found: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for result in results:
        value = value_of(result.report.recovered, measure)
        if value is not None:
            level = (*result.report.kind, result.report.level)
            found.setdefault(level, []).append((result.report.part_removed, value))
    points = sorted(([*zip(*pairs, strict=True)] for pairs in found.values()), key=_place)
    several = any(len(values) > 1 for _, values in points)
    return Line(
        name=printable(name, MOST_LABELLED),
        x=tuple(map(_place, points)),
        y=tuple(sum(values) / len(values) for _, values in points),
        low=tuple(min(values) for _, values in points) if several else (),
        high=tuple(max(values) for _, values in points) if several else (),
        is_bound=is_bound,
    )


def _place(point: Sequence[Sequence[float]]) -> float:
    return sum(point[0]) / len(point[0])
