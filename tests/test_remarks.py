"""What must be said beside the figures of a run."""

import dataclasses

import pytest

from recover.remarks import few_held_out, worse_than_before
from recover.report import StageRecord

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
