"""The bound of a report: the same runs on real images, where they can be compared at all.

A gap is a difference of two figures. It says what dreams cost only where both were measured alike,
and where the bound was taught on real images. What is not so is left out, and said.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from recover.measures import measure_of, on_same_images, remark_on_images, value_of
from recover.results import Result

REAL_IMAGES = "real images"
MOST_NAMED = 3  # runs, in a remark


def bound_name(results: Sequence[Result], bounds: Sequence[Result]) -> str:
    """Return what the bound's column is called: by its folder where dreams were its images."""
    if not _taught_on_dreams(results, bounds):
        return REAL_IMAGES
    folder = os.path.commonpath([result.folder.resolve() for result in bounds])
    return Path(folder).name or "bound"


def comparable(results: Sequence[Result], bounds: Sequence[Result]) -> list[Result]:
    """Return the bounds that were measured as the table of ``results`` is: on the same images."""
    measure = measure_of(results)
    known = [result for result in bounds if value_of(result.report.recovered, measure) is not None]
    if measure == "accuracy":
        return [
            bound for bound in known if all(on_same_images(bound, result) for result in results)
        ]
    sets = {_dreams(result) for result in results}
    return [result for result in known if sets == {_dreams(result)}]


def bound_of(result: Result, bounds: Sequence[Result], measure: str) -> float | None:
    """Return the mean over the bounds of the run's kind and level; None without any."""
    values = [
        value_of(bound.report.recovered, measure)
        for bound in bounds
        if abs(bound.report.level - result.report.level) < 1e-9
        and bound.report.kind == result.report.kind
    ]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def remarks_on(results: Sequence[Result], bounds: Sequence[Result] = ()) -> list[str]:
    """Return what a reader must know of how the runs of a report were measured."""
    return [
        *_on_runs(results),
        *remark_on_images([*results, *bounds]),
        *_on_bounds(results, bounds),
    ]


def _on_runs(results: Sequence[Result]) -> Iterable[str]:
    judged = [result for result in results if result.report.recovered.accuracy is not None]
    blind = [result for result in results if result.report.recovered.accuracy is None]
    if judged and blind:
        yield (
            f"judged on real images: {_names(judged)}; not so: {_names(blind)}; all are compared "
            "by agreement on held-out dreams"
        )
    held_out = [run for run in results if run.report.recovered.agreement_on_dreams is not None]
    if blind and len({_dreams(result) for result in held_out}) > 1:
        yield "the runs held out dreams of different sets: agreement on easier dreams is higher"


def _on_bounds(results: Sequence[Result], bounds: Sequence[Result]) -> Iterable[str]:
    used = comparable(results, bounds)
    left_out = [result for result in bounds if result not in used]
    if left_out:
        images = "real images" if measure_of(results) == "accuracy" else "held-out dreams"
        yield (
            f"no gap to {_names(left_out)}: not judged on the same {images} as the runs are; judge "
            "all of them with the same --eval-data"
        )
    if used and _starts_warm(results) != _starts_warm(used):
        yield (
            "the levels of one of the two, runs and bound, start from each other and those of the "
            "other from the teacher (recover sweep --no-warm-start): the gap is of that, too"
        )
    wrong = _taught_on_dreams(results, bounds)
    if wrong:
        yield f"no bound of real images, since taught on dreams: {_names(wrong)}"


def _taught_on_dreams(results: Sequence[Result], bounds: Sequence[Result]) -> list[Result]:
    """Return the bounds of which this is known.

    Reports of earlier versions do not tell; but what the runs were taught on is no bound of theirs.
    """
    sets = {_dreams(result) for result in results}
    return [
        result
        for result in bounds
        if (known := result.fact("dreams", "synthetic")) is True
        or (known is None and _dreams(result) in sets)
    ]


def _dreams(result: Result) -> str:
    return str(result.fact("dreams", "digest"))


def _names(results: Sequence[Result]) -> str:
    named = ", ".join(str(result.folder) for result in results[:MOST_NAMED])
    more = len(results) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _starts_warm(results: Sequence[Result]) -> bool:
    """Return whether a level starts from the level below: the first one never does."""
    return any(result.report.starts_warm for result in results)
