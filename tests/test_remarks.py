"""What must be said beside the figures of a run."""

import dataclasses
from math import prod
from pathlib import Path

import pytest
from recover_fixtures import blob_dreams, quick_config

from recover.masks import LayerCount
from recover.pipeline import recover_student
from recover.remarks import few_held_out, no_better_than_chance, worse_than_before
from recover.report import StageRecord
from shared.teacher import Teacher

STAGE = StageRecord(
    accuracy=None, agreement=None, agreement_on_dreams=None, sparsity=0.8, num_nonzero=1
)


@pytest.mark.parametrize(
    ("num_held_out", "words"),
    [
        (0, "no dreams are held out (--holdout 0.1 of 2,000): agreement on dreams and the score"),
        (16, "only 16 dreams are held out: agreement on them is known to within 25 points;"),
        (99, "only 99 dreams are held out: agreement on them is known to within 10 points;"),
    ],
)
def test_few_held_out_dreams_are_remarked_on(num_held_out: int, words: str) -> None:
    (remark,) = few_held_out(num_held_out, 2000, 0.1)

    assert remark.startswith(words)


def test_many_held_out_dreams_need_no_remark() -> None:
    assert few_held_out(100, 1000, 0.1) == []


@pytest.mark.parametrize(
    ("before", "after", "num_held_out", "is_worse"),
    [
        (0.8, 0.62, 100, True),
        (0.8, 0.76, 100, False),
        (0.8, 0.9, 100, False),
        (None, 0.1, 100, False),
        (0.8, 0.62, 12, True),
        (10 / 12, 9 / 12, 12, False),  # a single dream
    ],
)
def test_a_student_that_was_taught_badly_is_remarked_on(
    before: float | None, after: float, num_held_out: int, is_worse: bool
) -> None:
    remarks = worse_than_before(
        {
            "repaired": dataclasses.replace(STAGE, agreement_on_dreams=before),
            "recovered": dataclasses.replace(STAGE, agreement_on_dreams=after),
        },
        num_held_out,
    )

    assert len(remarks) == is_worse
    if is_worse:
        assert "of 80 % sparsity worse: 62.00 % agreement" in remarks[0]
        assert "80.00 % before its first step" in remarks[0]


def test_a_weight_that_happens_to_be_zero_is_no_sparsity() -> None:
    student = dataclasses.replace(STAGE, agreement_on_dreams=0.1, sparsity=9e-8)
    before = dataclasses.replace(STAGE, agreement_on_dreams=0.8)
    stages = {"repaired": before, "recovered": student}
    whole = [dataclasses.replace(layer, kept=prod(layer.shape)) for layer in LAYERS]

    assert no_better_than_chance(stages, 10, whole, "global") == []
    (remark,) = worse_than_before(stages, 100)
    assert "distilling made the student worse" in remark


LAYERS = (
    LayerCount(name="wide.weight", shape=(64, 64, 3, 3), kept=60),
    LayerCount(name="thin.weight", shape=(128, 128, 1, 1), kept=4),
)


@pytest.mark.parametrize(
    ("agreement", "num_classes", "is_told"),
    [
        (0.1, 10, True),
        (0.12, 10, True),
        (0.13, 10, False),
        (0.5, 2, False),  # of two classes a poor student is no better either
        (0.4, 3, True),
        (None, 10, False),
    ],
)
def test_a_student_that_learnt_nothing_is_remarked_on(
    agreement: float | None, num_classes: int, is_told: bool
) -> None:
    student = dataclasses.replace(STAGE, agreement_on_dreams=agreement, sparsity=0.98)

    remarks = no_better_than_chance({"recovered": student}, num_classes, LAYERS, "global")

    assert len(remarks) == is_told
    if is_told:
        assert "of thin.weight 4 of 16,384 weights are left" in remarks[0]
        assert remarks[0].endswith("or try --allocation lamp")
        (other,) = no_better_than_chance({"recovered": student}, num_classes, LAYERS, "lamp")
        assert other.endswith("or try more --steps")


def test_a_run_whose_layers_collapse_says_so(tiny_teacher: Teacher, tmp_path: Path) -> None:
    dreams = blob_dreams(tmp_path / "set", tiny_teacher)
    config = quick_config(sparsity=0.995, importance="magnitude")

    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "o")

    (remark,) = [text for text in report.warnings if "no better than chance" in text]
    thin = min(report.layers, key=lambda layer: layer.kept / layer.shape[0])
    assert f"of {thin.name} {thin.kept:,} of" in remark
    pruned = recover_student(
        quick_config(sparsity=0.995, steps=0), tiny_teacher, dreams, None, tmp_path / "pruned"
    )
    assert not any("no better than chance" in text for text in pruned.warnings)
