"""A run whose loss stops being finite starts again, slower, and is then that slower run."""

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from recover_fixtures import begin_distillation, blob_dreams, quick_config, run_to_the_end
from thread_group import together

from recover.config import RecoverConfig
from recover.course import MOST_RESTARTS, distill
from recover.distill import Distillation, DivergedError
from recover.journal import Journal
from recover.parallel import follow
from recover.pipeline import recover_student
from recover.report import RecoveryReport
from shared.distributed import ALONE, Group
from shared.dreamset import DreamSet
from shared.progress import Progress, ignore_progress
from shared.teacher import Teacher

HOPELESS = 1e20  # a rate at which the tiny teacher's copy is no number any more within four steps
USUAL = 0.05


@pytest.fixture
def one_restart_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recover.course.RATE_DIVISOR", HOPELESS / USUAL)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return blob_dreams(tmp_path_factory.mktemp("dreams"), tiny_teacher)


def hopeless_config(**changes: Any) -> RecoverConfig:
    return quick_config(**{"lr": HOPELESS, "warmup": 0.0} | changes)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / "student.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"schedule": "one-shot"}, {"importance": "fisher"}, {"ema": 0.9}),
        {"sparsity": 0.0, "channels": 0.5},
    ],
    ids=str,
)
@pytest.mark.usefixtures("one_restart_is_enough")
def test_a_diverging_run_ends_as_the_one_that_was_slower_from_the_start(
    tiny_teacher: Teacher,
    dreams: DreamSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    monkeypatch.setattr("recover.course.STEPS_PER_ROW", 1)  # there are finite rows to forget

    found = recover_student(
        hopeless_config(**changes), tiny_teacher, dreams, None, tmp_path / "fast"
    )
    expected = recover_student(
        hopeless_config(**changes, lr=USUAL), tiny_teacher, dreams, None, tmp_path / "slow"
    )

    fast, slow = weights(tmp_path / "fast"), weights(tmp_path / "slow")
    assert all(torch.equal(fast[name], slow[name]) for name in slow)
    assert found.recovered == expected.recovered
    assert [line for line in found.warnings if line not in expected.warnings] == [
        "the loss did not stay finite at --lr 1e+20: the student was taught at 0.05, from its "
        "first step on"
    ]
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("fast", "slow")]
    assert rows[0] == rows[1]
    assert found.config["lr"] == HOPELESS  # as asked: the same command finds the run finished


@pytest.mark.usefixtures("one_restart_is_enough")
def test_a_slower_run_that_is_killed_goes_on_at_its_own_rate(
    tiny_teacher: Teacher,
    dreams: DreamSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = hopeless_config(checkpoint_every=1e-9)
    whole = recover_student(config, tiny_teacher, dreams, None, tmp_path / "whole")
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    monkeypatch.setattr("recover.course.STEPS_PER_ROW", 4)

    def kill(report: Progress) -> None:
        if report.stage == "distill" and report.facts.get("lr", HOPELESS) < 1 and report.done >= 6:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "out", kill)
    seen: list[Progress] = []
    resumed = recover_student(config, tiny_teacher, dreams, None, tmp_path / "out", seen.append)

    assert min(report.done for report in seen if report.stage == "distill") > 6
    assert resumed.recovered == whole.recovered
    assert resumed.warnings == whole.warnings
    found, expected = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_that_no_rate_helps_ends_with_one_line(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    rates: list[float] = []

    def again(config: RecoverConfig) -> Distillation:
        rates.append(config.lr or 0.0)
        return begin_distillation(tiny_teacher, config)

    with pytest.raises(DivergedError, match="is not finite; lower --lr") as raised:
        distill(
            begin_distillation(tiny_teacher, hopeless_config()),
            again=again,
            journal=Journal(tmp_path / "metrics.jsonl"),
            save=lambda run: None,
            progress=ignore_progress,
        )

    assert rates == [HOPELESS / 4**number for number in range(1, MOST_RESTARTS + 1)]
    assert f"{rates[-1]:g}" in str(raised.value)
    assert raised.value.exit_code == 1


def test_nothing_of_a_diverged_run_is_saved(tiny_teacher: Teacher, tmp_path: Path) -> None:
    saved: list[int] = []
    run = begin_distillation(tiny_teacher, hopeless_config(checkpoint_every=1e-9))

    with pytest.raises(DivergedError):
        run_to_the_end(run, tmp_path, saved)

    assert saved == list(range(1, len(saved) + 1))  # its first, finite ones
    assert len(saved) < run.step
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_signal_ends_a_diverged_run_without_a_checkpoint(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    saved: list[int] = []
    run = begin_distillation(tiny_teacher, hopeless_config())
    advance = run.advance

    def interrupted_advance() -> None:
        advance()
        if not run.is_finite():
            os.kill(os.getpid(), signal.SIGTERM)

    run.advance = interrupted_advance  # type: ignore[method-assign]

    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(run, tmp_path, saved)

    assert saved == []


def test_no_channel_is_chosen_by_what_is_no_number(tiny_teacher: Teacher) -> None:
    run = begin_distillation(tiny_teacher, hopeless_config(sparsity=0.0, channels=0.5))

    def advance_blindly() -> None:
        for _ in range(run.config.steps):
            run.advance()

    with pytest.raises(DivergedError):
        advance_blindly()


@pytest.mark.usefixtures("one_restart_is_enough")
def test_processes_start_again_together(tiny_teacher: Teacher, tmp_path: Path) -> None:
    def taught(config: RecoverConfig, group: Group = ALONE) -> Distillation:
        return distill(
            begin_distillation(tiny_teacher, config, group),
            again=lambda slower: begin_distillation(tiny_teacher, slower, group),
            journal=Journal(tmp_path / f"{group.count}-{group.index}.jsonl"),
            save=lambda run: None,
            progress=ignore_progress,
        )

    runs = together(2, lambda group: taught(hopeless_config(), group))

    alone = taught(hopeless_config(lr=USUAL))
    for run in runs:
        assert (run.step, run.config.lr) == (alone.step, USUAL)
        for name, value in alone.student.state_dict().items():
            found = run.student.state_dict()[name]
            assert torch.allclose(found.float(), value.float(), rtol=1e-3, atol=1e-5), name


@pytest.mark.usefixtures("one_restart_is_enough")
def test_who_follows_a_run_that_starts_again_writes_nothing(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote its rows to /dev/null, whose place a file took when they were dropped."""
    nothing = tmp_path / "null"
    nothing.write_text("as it is")
    monkeypatch.setattr(os, "devnull", str(nothing))

    def work(group: Group) -> None:
        teacher = copy.deepcopy(tiny_teacher)
        if group.leads:
            recover_student(hopeless_config(), teacher, dreams, None, tmp_path / "two", group=group)
        else:
            follow(hopeless_config(), teacher, dreams, group)

    together(2, work)

    assert nothing.read_text() == "as it is"
    assert (tmp_path / "two" / "metrics.jsonl").exists()


def test_a_run_that_stays_finite_says_nothing(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    report: RecoveryReport = recover_student(
        quick_config(), tiny_teacher, dreams, None, tmp_path / "out"
    )

    assert not any("finite" in line for line in report.warnings)
