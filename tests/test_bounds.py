"""A gap is printed only between figures that were measured alike, and called what it is."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from recover.bounds import bound_name, comparable, remarks_on
from recover.masks import LayerCount
from recover.page import Page, Section, compose
from recover.report import ClassRecord, RecoveryReport, StageRecord
from recover.results import Result
from recover.tables import classes_table, levels_table

LAYERS = (("conv", 1), ("fc", 4))


def run(
    folder: str,
    *,
    accuracy: float | None = None,
    agreement: float = 0.5,
    digest: str = "dreams",
    synthetic: bool | None = True,
    sparsity: float = 0.9,
    num_real: int = 100,
    judged_on: str | None = None,
) -> Result:
    """A finished run, judged on ``num_real`` real images if it has an accuracy."""
    stage = StageRecord(
        accuracy=accuracy,
        agreement=agreement if accuracy is None else 0.99,
        agreement_on_dreams=agreement,
        sparsity=sparsity,
        num_nonzero=1,
    )
    dreams: dict[str, Any] = {"digest": digest, "num_held_out": 12, "synthetic": synthetic}
    report = RecoveryReport(
        sparsity=sparsity,
        teacher=stage,
        pruned=stage,
        repaired=stage,
        recovered=stage,
        seconds=1.0,
        out=folder,
        num_weights=10,
        num_kept=1,
        layers=(),
        config={},
        provenance={
            "dreams": dreams,
            "num_eval_images": None if accuracy is None else num_real,
            "eval_data_digest": judged_on,
        },
        warnings=(),
    )
    return Result(folder=Path(folder), report=report, losses=())


def real(folder: str = "real/s0.9", **changes: Any) -> Result:
    facts: dict[str, Any] = {"digest": "photos", "synthetic": False}
    return run(folder, **(facts | changes))


def gap(results: list[Result], bounds: list[Result]) -> tuple[str, str]:
    best, found = levels_table(results, bounds).rows[0][-2:]
    return best, found


def test_accuracies_have_a_gap() -> None:
    results, bounds = [run("a", accuracy=0.8)], [real(accuracy=0.85)]

    assert gap(results, bounds) == ("85.00 %", "-5.00")
    assert levels_table(results, bounds).columns[-2:] == ("real images", "gap")
    assert remarks_on(results, bounds) == []


@pytest.mark.parametrize(
    ("found", "bound", "images"),
    [
        (None, 0.99, "held-out dreams"),  # was: 50 % of 12 dreams less 99 % of 100 images
        (0.99, None, "real images"),
        (None, None, "held-out dreams"),
    ],
)
def test_figures_of_other_images_have_no_gap(
    found: float | None, bound: float | None, images: str
) -> None:
    results, bounds = [run("a", accuracy=found)], [real(accuracy=bound)]

    assert gap(results, bounds) == ("-", "-")
    assert comparable(results, bounds) == []
    assert remarks_on(results, bounds) == [
        f"no gap to real/s0.9: not judged on the same {images} as the runs are; judge all of them "
        "with the same --eval-data"
    ]
    assert "is what dreams cost" not in str(compose(results, bounds))


@pytest.mark.parametrize("other", [{"judged_on": "b"}, {"judged_on": "b", "num_real": 7}])
def test_accuracies_on_other_real_images_have_no_gap(other: dict[str, Any]) -> None:
    results, bounds = [run("a", accuracy=0.8, judged_on="a")], [real(accuracy=0.85, **other)]

    assert gap(results, bounds) == ("-", "-")
    assert "is what dreams cost" not in str(compose(results, bounds))
    on_images, on_bound = remarks_on(results, bounds)
    assert on_images.startswith("the runs were judged on different")
    assert on_bound.startswith("no gap to real/s0.9: not judged on the same real images")


def test_runs_on_other_images_than_each_other_have_no_bound() -> None:
    results = [run(name, accuracy=0.8, judged_on=name) for name in "ab"]

    assert comparable(results, [real(accuracy=0.85, judged_on="a")]) == []
    assert remarks_on(results) == [
        "the runs were judged on different real images, or on ones with different labels; "
        "accuracies compare on the same --eval-data"
    ]


def test_reports_that_do_not_tell_their_images_are_compared_as_before() -> None:
    results = [run("a", accuracy=0.8, judged_on="a")]

    assert gap(results, [real(accuracy=0.85)]) == ("85.00 %", "-5.00")
    assert gap(results, [real(accuracy=0.85, judged_on="a")]) == ("85.00 %", "-5.00")
    assert remarks_on(results, [real(accuracy=0.85)]) == []


def test_the_title_is_that_of_the_runs_whatever_the_bound_was_judged_on() -> None:
    title = levels_table([run("a", accuracy=0.8)], [real()]).title

    assert title == "Accuracy on 100 real images"


def test_runs_of_both_kinds_are_compared_by_what_all_of_them_have() -> None:
    results = [run("a", accuracy=0.8, agreement=0.6), run("b", agreement=0.7, sparsity=0.95)]

    table = levels_table(results)

    assert table.title == "Agreement with the teacher on 12 held-out dreams"
    assert [row[-1] for row in table.rows] == ["60.00 %", "70.00 %"]
    assert remarks_on(results) == [
        "judged on real images: a; not so: b; all are compared by agreement on held-out dreams"
    ]


def test_many_runs_are_named_by_the_first() -> None:
    results = [run(name, accuracy=0.8) for name in "abcde"]

    assert remarks_on([*results, run("z")])[0].startswith(
        "judged on real images: a, b, c and 2 more; not so: z;"
    )


def test_agreement_on_dreams_of_several_sets_is_remarked_on() -> None:
    (remark,) = remarks_on([run("a"), run("b", digest="other")])

    assert "held out dreams of different sets" in remark
    both = [run("a", accuracy=0.8), run("b", accuracy=0.8, digest="other")]
    assert remarks_on(both) == []


def test_a_run_that_held_out_no_dreams_held_out_none_of_another_set() -> None:
    def pruned(folder: str) -> Result:
        result = run(folder)
        stage = dataclasses.replace(result.report.recovered, agreement_on_dreams=None)
        facts = result.report.provenance | {"dreams": None}
        report = dataclasses.replace(result.report, recovered=stage, provenance=facts)
        return dataclasses.replace(result, report=report)

    assert remarks_on([run("a"), pruned("b")]) == []
    assert len(remarks_on([run("a"), pruned("b"), run("c", digest="other")])) == 1


def test_a_bound_that_was_taught_on_dreams_is_called_by_its_folder() -> None:
    results = [run("a", accuracy=0.8)]
    levels = [run(f"others/s{level}", accuracy=0.85, digest="x") for level in (0.5, 0.9)]

    assert bound_name(results, levels) == "others"
    assert bound_name(results, levels[:1]) == "s0.5"
    assert levels_table(results, levels).columns[-2:] == ("others", "gap")
    assert remarks_on(results, levels) == [
        "no bound of real images, since taught on dreams: others/s0.5, others/s0.9"
    ]
    page = str(compose(results, levels))
    assert "others: other runs to compare with" in page
    assert "is what dreams cost" not in page


def test_reports_of_earlier_versions_do_not_tell_what_a_bound_is() -> None:
    results = [run("a", accuracy=0.8, synthetic=None)]
    stranger, twin = (run("b", accuracy=0.85, synthetic=None, digest=d) for d in ("x", "dreams"))

    assert bound_name(results, [stranger]) == "real images"
    assert bound_name(results, [twin]) == "b"  # taught on what the runs were taught on


def test_classes_of_runs_that_saw_other_images_have_a_dash() -> None:
    on_dreams = with_class(run("a", sparsity=0.5), 0.4)
    on_real = with_class(run("b", accuracy=0.8), 0.7)

    rows = classes_table([on_dreams, on_real], on_real).rows

    assert rows == (("class 0", "9", "-", "70.00 %", "-"),)
    page = compose([on_dreams, on_real])
    assert "judged on other images have a dash" in str(page)
    # Like the rest of a page whose runs were not all judged on real images: of held-out dreams.
    assert ("class 0", "9", "40.00 %", "-", "-") in section(page, "Which classes").tables[0].rows
    assert "Of the held-out dreams" in section(page, "Which classes").paragraphs[0]


def test_classes_of_runs_on_other_real_images_have_a_dash() -> None:
    runs = [
        with_class(run(name, accuracy=0.8, judged_on=name, sparsity=sparsity), 0.7)
        for name, sparsity in (("a", 0.5), ("b", 0.9))
    ]

    assert classes_table(runs, runs[1]).rows == (("class 0", "9", "-", "70.00 %", "-"),)


def test_the_most_pruned_run_is_one_and_the_same_all_over_a_page() -> None:
    # Two series: of students of the same kind the plots by layer show those of the first.
    shown = detailed("first/s0.5", 0.5, seed=0), detailed("first/s0.8", 0.8, seed=0)
    unseen = detailed("other/s0.9", 0.9, seed=0, lr=1.0)

    one = compose(list(shown))
    both = compose([*shown, unseen])

    assert "the most pruned network (80 %)" in section(one, "Which layers").paragraphs[1]
    assert "that of the most pruned network (80 %)" in section(one, "Which classes").paragraphs[0]
    assert section(one, "Settings").title == "Settings of the most pruned network (80 %)"
    assert section(both, "Which layers").paragraphs[1].startswith("Of 80 %, ")
    assert section(both, "Which classes").paragraphs[0].endswith("instead, that of 80 %.")
    assert section(both, "Settings").title == "Settings of the most pruned network (90 %)"
    where = dict(section(both, "Where it comes").tables[0].rows)
    assert where["student"] == "other/s0.9/student.safetensors"


def test_a_run_has_one_name_in_all_tables_of_a_page() -> None:
    # Of two series the tables by layer and by class show the first, whose level the other has, too.
    page = compose([detailed("first/s0.8", 0.8), detailed("other/s0.8", 0.8, lr=1.0)])

    assert section(page, "Agreement").tables[0].rows[0][0] == "80 % first/s0.8"
    for title in ("Which layers", "Which classes"):
        assert section(page, title).tables[0].columns[2] == "80 % first/s0.8"


def test_the_stages_are_shown_by_the_measure_of_the_whole_page() -> None:
    # Only the run of another series, which the figure of the stages leaves out, saw no real image.
    shown = run("a", accuracy=0.8, sparsity=0.9)
    unseen = detailed("b", 0.9, lr=1.0)

    words = section(compose([shown, unseen]), "What repair").paragraphs[0]

    assert "changed the agreement by" in words


def section(page: Page, title: str) -> Section:
    (found,) = (part for part in page.sections if part.title.startswith(title))
    return found


def with_class(result: Result, agreement: float) -> Result:
    entry = ClassRecord(
        label=0, num_images=9, agreement=agreement, confused_with=None, num_confused=0
    )
    return dataclasses.replace(result, report=dataclasses.replace(result.report, classes=(entry,)))


def detailed(folder: str, sparsity: float, **config: Any) -> Result:
    """A run with layers, classes and settings."""
    result = with_class(run(folder, sparsity=sparsity), 0.5)
    layers = tuple(LayerCount(name=name, shape=(4, 2), kept=kept) for name, kept in LAYERS)
    report = dataclasses.replace(
        result.report, layers=layers, config=config, num_kept=round(10 * (1 - sparsity))
    )
    return dataclasses.replace(result, report=report)
