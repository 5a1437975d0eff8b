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


def on_same_images(first: Result, second: Result) -> bool:
    """Return whether two runs may have been judged on the same real images, with the same labels.

    Of reports of earlier versions, and of runs without such images, nothing else is known.
    """
    both = (first, second)
    return all(len(_known(both, name)) < 2 for name in ("num_eval_images", "eval_data_digest"))


def judged_alike(first: Result, second: Result) -> bool:
    """Return whether the classes of two runs were measured on the same kind of images."""
    same = judged_on_real(first) == judged_on_real(second)
    return same and on_same_images(first, second)


def remark_on_images(results: Sequence[Result]) -> list[str]:
    """Return a sentence if the runs' accuracies are of different real images."""
    counts = sorted({count_of(result, "num_eval_images") for result in results} - {0})
    if len(counts) > 1:
        listed = ", ".join(map(str, counts))
        return [f"the runs were judged on different numbers of real images ({listed})"]
    if len(_known(results, "eval_data_digest")) > 1:
        return [
            "the runs were judged on different real images, or on ones with different labels; "
            "accuracies compare on the same --eval-data"
        ]
    return []


def _known(results: Sequence[Result], name: str) -> set[str]:
    """Return what the reports that know it have there; text, whatever is in a file."""
    return {str(found) for result in results if (found := result.fact(name))}


def _count(results: Sequence[Result], *path: str) -> str:
    """Return the number at ``path`` and a space, or nothing where runs differ in it."""
    counts = {count_of(result, *path) for result in results} - {0}
    return f"{counts.pop():,} " if len(counts) == 1 else ""
