import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from recover_fixtures import odd_network, quick_config, self_contained_dreams

from recover.cli import main
from recover.config import RecoverConfig
from recover.importance import prunable_weights
from recover.preparation import prepare
from recover.schedule import sparsity_at
from recover.series import series
from recover.sweep import FINISHED, finished_results, plan_levels, run_sweep
from recover.warm_start import masks_of_zeros, warm_starts, with_start
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError
from shared.progress import Progress
from shared.teacher import Teacher

SPARSITIES = (0.5, 0.8, 0.9)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return self_contained_dreams(tmp_path_factory.mktemp("set"), tiny_teacher)


def warm(**changes: object) -> list[RecoverConfig]:
    cold = [quick_config(**{"sparsity": level, "steps": 6, **changes}) for level in SPARSITIES]
    return list(warm_starts(cold))


def test_every_level_starts_where_the_one_below_ended() -> None:
    assert [config.warm_start for config in warm()] == [0.0, 0.5, 0.8]
    with pytest.raises(ConfigError, match=r"sparsity 0\.9, expected at most the 0\.8"):
        quick_config(sparsity=0.8, warm_start=0.9)


def test_the_schedule_goes_from_the_sparsity_below() -> None:
    config = quick_config(sparsity=0.9, steps=100, prune_end=0.5, warm_start=0.8)
    cold = dataclasses.replace(config, warm_start=None)

    assert sparsity_at(config, 0) == 0.8
    assert sparsity_at(config, 25) == pytest.approx(0.9 - 0.1 / 8)
    assert sparsity_at(config, 50) == sparsity_at(config, 99) == 0.9
    assert sparsity_at(dataclasses.replace(cold, warm_start=0.0), 20) == sparsity_at(cold, 20)


def test_masks_keep_what_is_not_zero() -> None:
    network = odd_network()
    weights = prunable_weights(network)
    with torch.no_grad():
        for weight in weights.values():
            weight.view(-1)[::3] = 0

    masks = masks_of_zeros(network)

    assert masks.num_kept == sum(
        weight.numel() - -(-weight.numel() // 3) for weight in weights.values()
    )
    for name, weight in weights.items():
        assert torch.equal(masks.kept[name], weight != 0)
    masks.check(network)


def test_zeros_stay_zeros_from_level_to_level(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    levels = plan_levels(warm(weight_decay=0.1), tiny_teacher, dreams, None, tmp_path)
    run_sweep(levels, tiny_teacher, dreams, None)

    results = finished_results(levels)
    students = [
        safetensors.torch.load_file(level.folder / "student.safetensors") for level in levels
    ]
    for result, sparsity, student in zip(results, SPARSITIES, students, strict=True):
        report = result.report
        assert report.num_kept == round((1 - sparsity) * report.num_weights)
        names = prunable_weights(tiny_teacher.network)
        assert sum(int(student[name].count_nonzero()) for name in names) == report.num_kept
    for below, above in itertools.pairwise(students):
        for name in prunable_weights(tiny_teacher.network):
            assert not above[name][below[name] == 0].any()
    assert [result.report.config["warm_start"] for result in results] == [0.0, 0.5, 0.8]
    # The teacher beside them is the dense one still.
    assert {result.report.teacher.sparsity for result in results} == {0.0}


def test_the_first_level_is_that_of_a_cold_sweep(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    for name, configs in (("warm", warm()), ("cold", [quick_config(sparsity=0.5, steps=6)])):
        levels = plan_levels(configs[:1], tiny_teacher, dreams, None, tmp_path / name)
        run_sweep(levels, tiny_teacher, dreams, None)

    ours, other = (
        safetensors.torch.load_file(tmp_path / name / "s0.5" / "student.safetensors")
        for name in ("warm", "cold")
    )
    assert all(torch.equal(ours[key], other[key]) for key in ours)


def test_a_warm_sweep_that_was_killed_ends_with_the_same_students(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)

    def stop(report: Progress) -> None:
        if (report.stage, report.done) == ("s0.8 distill", 3):
            raise RuntimeError("killed")

    every_step = warm(checkpoint_every=1e-9)
    levels = plan_levels(every_step, tiny_teacher, dreams, None, tmp_path / "parts")
    with pytest.raises(RuntimeError, match="killed"):
        run_sweep(levels, tiny_teacher, dreams, None, progress=stop)
    levels = plan_levels(every_step, tiny_teacher, dreams, None, tmp_path / "parts")
    run_sweep(levels, tiny_teacher, dreams, None)
    whole = plan_levels(warm(), tiny_teacher, dreams, None, tmp_path / "whole")
    run_sweep(whole, tiny_teacher, dreams, None)

    for name in ("s0.5", "s0.8", "s0.9"):
        parts, other = (
            tmp_path / home / name / "student.safetensors" for home in ("parts", "whole")
        )
        assert parts.read_bytes() == other.read_bytes()
    again = plan_levels(warm(), tiny_teacher, dreams, None, tmp_path / "parts")
    assert {level.state for level in again} == {FINISHED}
    cold = [dataclasses.replace(config, warm_start=None) for config in warm()]
    with pytest.raises(IncompatibleError, match=r"--warm-start 0\.0 \(now None\)"):
        plan_levels(cold, tiny_teacher, dreams, None, tmp_path / "parts")


def test_a_student_of_another_level_is_no_start(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    levels = plan_levels(warm()[:1], tiny_teacher, dreams, None, tmp_path)
    run_sweep(levels, tiny_teacher, dreams, None)
    student = tmp_path / "s0.5" / "student.safetensors"

    with pytest.raises(IncompatibleError, match=r"found sparsity 0\.5, expected 0\.8 to start"):
        with_start(prepare(warm()[2], tiny_teacher, dreams), student)


def test_warm_and_cold_levels_are_two_lines_of_a_report(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    cold = [quick_config(sparsity=level, steps=6) for level in SPARSITIES[:2]]
    results = []
    for name, configs in (("warm", warm()[:2]), ("cold", cold)):
        levels = plan_levels(configs, tiny_teacher, dreams, None, tmp_path / name)
        run_sweep(levels, tiny_teacher, dreams, None)
        results += finished_results(levels)

    assert {name: len(runs) for name, runs in series(results).items()} == {"warm": 2, "cold": 2}


@pytest.fixture
def sweep(runner: CliRunner, dreams: DreamSet, tmp_path: Path) -> Callable[..., Result]:
    """Run the command on two levels; the result holds their reports."""

    def run(*arguments: str, levels: tuple[str, ...] = ("--sparsity", "0.5,0.9")) -> Result:
        quick = ("--steps", "6", "--batch-size", "16", "--repair-images", "32", "--device", "cpu")
        paths = ("--dreams", str(dreams.path), "--out", str(tmp_path / "levels"))
        return runner.invoke(main, ["sweep", *quick, *paths, *levels, "--json", *arguments])

    return run


def starts(result: Result) -> list[float | None]:
    """What each level of the command started from."""
    assert result.exit_code == 0, result.output
    return [report["config"]["warm_start"] for report in json.loads(result.stdout)]


def test_the_command_starts_warm_with_one_worker_only(sweep: Callable[..., Result]) -> None:
    done = sweep("--warm-start")
    refused = sweep("--warm-start", "--worker", "0/2")
    planned = sweep("--warm-start", "--dry-run")

    assert starts(done) == [0.0, 0.5]
    assert planned.exit_code == 0
    assert [level["state"] for level in json.loads(planned.stdout)["levels"]] == ["finished"] * 2
    assert refused.exit_code == 2
    assert "--warm-start: found 2 workers, expected one" in refused.stderr


def test_levels_start_from_each_other_where_nobody_says(sweep: Callable[..., Result]) -> None:
    assert starts(sweep()) == [0.0, 0.5]
    assert starts(sweep()) == [0.0, 0.5]  # finished
    refused = sweep("--no-warm-start")

    assert refused.exit_code == 4
    assert "--warm-start 0.0 (now None)" in refused.stderr
    assert starts(sweep("--no-warm-start", "--overwrite")) == [None, None]


def test_levels_that_started_from_the_teacher_go_on_so(sweep: Callable[..., Result]) -> None:
    assert starts(sweep("--worker", "1/2")) == [None]  # 0.9 alone
    assert starts(sweep()) == [None, None]
    assert starts(sweep("--overwrite")) == [0.0, 0.5]


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [
        ((), ("--sparsity", "0.9")),
        (("--steps", "0"), ("--sparsity", "0.5,0.9")),
    ],
    ids=str,
)
def test_levels_that_gain_nothing_from_each_other_start_from_the_teacher(
    sweep: Callable[..., Result], arguments: tuple[str, ...], levels: tuple[str, ...]
) -> None:
    assert set(starts(sweep(*arguments, levels=levels))) == {None}


def test_a_level_that_was_killed_goes_on_as_it_was_begun(
    sweep: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr("recover.pipeline.save_student", _fail)  # after the last checkpoint
        assert sweep("--no-warm-start").exception is not None

    assert starts(sweep()) == [None, None]


def _fail(*_: object) -> None:
    raise RuntimeError("killed")
