"""Which runs of a report are one curve, and which stand for the others."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from recover.bounds import bound_of
from recover.figures import NUM_COLORS
from recover.page import compose
from recover.report import ClassRecord, RecoveryReport, StageRecord
from recover.results import Result
from recover.series import curves, line_of

STEPS = ((1.0, 2.0), (2.0, 1.0))


def stage(agreement: float, num_nonzero: int) -> StageRecord:
    return StageRecord(
        accuracy=None,
        agreement=agreement,
        agreement_on_dreams=agreement,
        sparsity=0.0,
        num_nonzero=num_nonzero,
    )


def run(
    folder: str, sparsity: float = 0.0, *, kept: int = 100, agreement: float = 0.5, **config: Any
) -> Result:
    """A finished run of a teacher of 100 weights."""
    entry = ClassRecord(label=0, num_images=9, agreement=0.5, confused_with=None, num_confused=0)
    report = RecoveryReport(
        sparsity=sparsity,
        teacher=stage(1.0, 100),
        **dict.fromkeys(("pruned", "repaired", "recovered"), stage(agreement, kept)),
        seconds=1.0,
        out=folder,
        num_weights=100,
        num_kept=kept,
        layers=(),
        config=config,
        provenance={},
        warnings=(),
        classes=(entry,),
    )
    return Result(folder=Path(folder), report=report, losses=STEPS)


ZEROS = [run("z/s0.5", 0.5), run("z/s0.8", 0.8)]
PATTERN = run("p", 0.5, pattern="2:4")
CHANNELS = [run("c/c0.5", channels=0.5, kept=30), run("c/c0.25", channels=0.25, kept=8)]
OTHER = run("o", student="resnet8")


def test_every_kind_of_student_has_its_curves() -> None:
    results = [PATTERN, *ZEROS, *CHANNELS, OTHER]

    assert curves(results) == results
    assert curves([*ZEROS, PATTERN]) == [*ZEROS, PATTERN]


def test_one_run_stands_for_the_seeds_and_settings_of_its_level() -> None:
    seeds = [dataclasses.replace(run("s", 0.5, seed=1)), run("t", channels=0.5, seed=1, kept=31)]
    others = [run("u", 0.5, lr=1), run("v", channels=0.5, lr=1)]

    assert curves([*ZEROS, *CHANNELS, *seeds, *others]) == [*ZEROS, *CHANNELS]


def test_of_too_many_levels_those_of_the_longest_sweep_go_first() -> None:
    many = [run(f"z/{n}", n / 100) for n in range(50, 62)]

    shown = curves([PATTERN, *CHANNELS, *many])

    assert len(shown) == NUM_COLORS
    assert shown == [PATTERN, *CHANNELS, *many[-(NUM_COLORS - 3) :]]


def test_a_page_says_which_runs_a_part_of_it_leaves_out() -> None:
    results = [PATTERN, *ZEROS, *CHANNELS, run("z/other", 0.5, lr=1)]
    parts = {section.title: section.paragraphs for section in compose(results).sections}

    left_out = "Not shown here: 50 % of channels, 25 % of channels, 50 % other."
    assert left_out in parts["What repair and distillation give"]
    assert left_out in parts["Which layers are pruned"]
    for title in ("Distillation loss", "Which classes pay"):
        assert "Not shown here: 50 % other." in parts[title]
    whole = [text for section in compose(ZEROS).sections for text in section.paragraphs]
    assert not any("Not shown" in text for text in whole)


def test_seeds_of_a_level_of_channels_are_one_point() -> None:
    """Which channels go depends on the seed, and with them how many weights."""
    seeds = [
        run("a", channels=0.5, seed=0, kept=30, agreement=0.6),
        run("b", channels=0.5, seed=1, kept=34, agreement=0.8),
        run("c", channels=0.25, seed=0, kept=10, agreement=0.3),
    ]

    line = line_of("channels", seeds, "agreement")

    assert line.x == pytest.approx((0.68, 0.9))
    assert line.y == pytest.approx((0.7, 0.3))
    assert line.low == (0.6, 0.3)
    assert line.high == (0.8, 0.3)


def test_a_bound_is_one_of_the_same_kind_and_level() -> None:
    bounds = [
        run("1", 0.5, agreement=0.9),
        run("2", 0.5, pattern="2:4", agreement=0.8),
        run("3", channels=0.5, agreement=0.7),
        run("4", channels=0.5, student="resnet8", agreement=0.6),
    ]

    for bound in bounds:
        assert bound_of(bound, bounds, "agreement") == bound.report.recovered.agreement
    assert bound_of(run("5", 0.5, pattern="4:8"), bounds, "agreement") is None
    assert bound_of(CHANNELS[1], bounds, "agreement") is None
