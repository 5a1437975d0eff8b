"""What a page calls the stages of its runs, and the run that it shows in detail."""

from collections.abc import Iterator, Sequence

from recover.results import Result, most_pruned
from recover.tables import are_other_students, labels_of

MOST_NAMED = 6  # runs, in a sentence


def words_for_stages(results: Sequence[Result]) -> Iterator[str]:
    """Yield what pruned, repaired and recovered mean, or untaught and taught."""
    if all("taught" in run.report.shown_stages for run in results):
        yield (
            "Untaught: the student as it starts, with random weights or those of its checkpoint. "
            "Taught: after distillation on the dreams, as it was saved."
        )
        return
    has_cut = any(run.report.config.get("channels") is not None for run in results)
    without = "without its least important channels"
    if not are_other_students(results):
        also = f", or {without} where it says how many are left" if has_cut else ""
        without = f"with its least important weights set to zero{also}"
    yield (
        f"Pruned: the teacher {without}. "
        "Repaired: with its BatchNorm statistics measured again, forward only. "
        "Recovered: after distillation, the student that was saved."
    )
    if any(run.report.starts_warm for run in results):
        yield (
            "Each level starts from the student of the level below it, and so has the steps of "
            "those below, too: pruned and repaired are that student, pruned further."
        )
    others = [run.report.student for run in results if "taught" in run.report.shown_stages]
    if others:
        yield (
            f"{', '.join(dict.fromkeys(map(str, others)))}: no copy of the teacher but a network "
            "of its own; pruned is what it starts as, recovered what it was taught."
        )


def words_for_left_out(shown: Sequence[Result], results: Sequence[Result]) -> Iterator[str]:
    """Yield which runs of a page a part of it does not show, if there are any."""
    folders = {result.folder for result in shown}
    labels = [
        label
        for label, result in zip(labels_of(results), results, strict=True)
        if result.folder not in folders
    ]
    more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    if labels:
        yield f"Not shown here: {', '.join(labels[:MOST_NAMED])}{more}."


def chosen_of(shown: Sequence[Result], results: Sequence[Result]) -> tuple[Result, str]:
    """Return the run to show in detail among ``shown``, and what it is called.

    The most pruned of all ``results``, the same one in every part of a page; where that is not
    shown, or has no such figures, the most pruned that is and has, by its own name.
    """
    label_by_folder = dict(
        zip((result.folder for result in results), labels_of(results), strict=True)
    )
    best, chosen = most_pruned(results), most_pruned(shown)
    label = label_by_folder[chosen.folder]
    if any(result.folder == best.folder for result in shown):
        chosen, label = best, f"the most pruned network ({label_by_folder[best.folder]})"
    return chosen, label
