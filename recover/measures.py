"""What the figures of finished runs are: measured on real images, or on held-out dreams."""

from collections.abc import Sequence

from recover.report import StageRecord
from recover.results import Result


def measure_of(results: Sequence[Result]) -> str:
    """Return ``accuracy`` where all runs have one, else ``agreement``."""
    known = all(result.report.recovered.accuracy is not None for result in results)
    return "accuracy" if known and results else "agreement"


def value_of(stage: StageRecord, measure: str) -> float | None:
    """Return the stage's accuracy, or its agreement on held-out dreams.

    Not the agreement on real images: where that is known of all runs, so is their accuracy.
    """
    return stage.accuracy if measure == "accuracy" else stage.agreement_on_dreams


def count_of(result: Result, *path: str) -> int:
    """Return the number that the provenance has at ``path``, 0 where it has none."""
    found = result.fact(*path)
    return found if isinstance(found, int) else 0


def what_is_measured(results: Sequence[Result]) -> str:
    """Return what a table of the runs shows, with the number of images where all have the same."""
    if measure_of(results) == "accuracy":
        return f"Accuracy on {_count(results, 'num_eval_images')}real images"
    num_held_out = _count(results, "dreams", "num_held_out")
    return f"Agreement with the teacher on {num_held_out}held-out dreams"


def judged_on_real(result: Result) -> bool:
    """Return whether the run's classes were measured on real images, else on held-out dreams."""
    return count_of(result, "num_eval_images") > 0


def remark_on_counts(results: Sequence[Result]) -> list[str]:
    """Return a sentence if the runs' accuracies are of different numbers of real images."""
    counts = sorted({count_of(result, "num_eval_images") for result in results} - {0})
    if len(counts) < 2:
        return []
    listed = ", ".join(map(str, counts))
    return [f"the runs were judged on different numbers of real images ({listed})"]


def _count(results: Sequence[Result], *path: str) -> str:
    """Return the number at ``path`` and a space, or nothing where runs differ in it."""
    counts = {count_of(result, *path) for result in results} - {0}
    return f"{counts.pop():,} " if len(counts) == 1 else ""
