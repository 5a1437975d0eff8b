"""Which student a level of a sweep starts from, where the one below has a bottleneck."""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from recover_fixtures import quick_config, self_contained_dreams
from torch import nn

from recover.allocation import choose_masks
from recover.config import RecoverConfig
from recover.export import load_student, save_student
from recover.importance import prunable_weights
from recover.next_run import NEXT_NAME
from recover.preparation import resolved
from recover.starts import choose_start, starved_layer
from recover.sweep import (
    FINISHED,
    INTERRUPTED,
    WAITING,
    Level,
    finished_results,
    plan_levels,
    run_sweep,
)
from recover.warm_start import masks_of_zeros, warm_starts
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.progress import Progress
from shared.teacher import Teacher

THIN = "layer3.0.conv2.weight"


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return self_contained_dreams(tmp_path_factory.mktemp("set"), tiny_teacher)


def configs(*sparsities: float) -> list[RecoverConfig]:
    """Levels with the allocation that they have where nobody says."""
    every_step = {"steps": 6, "checkpoint_every": 1e-9}
    return list(warm_starts([quick_config(sparsity=level, **every_step) for level in sparsities]))


def thin_out(student: Path, weights: int) -> None:
    """Leave so many weights of one layer, as pruning over the whole network may."""
    saved = load_student(student)
    network = saved.classifier.network
    weight = prunable_weights(network)[THIN]
    weight.view(-1)[weights:] = 0
    weight.view(-1)[:weights] = 1
    facts = {name: saved.facts[name] for name in ("sparsity", "teacher_fingerprint", "config")}
    save_student(student, network, masks_of_zeros(network), saved.classifier.spec, facts)


@pytest.fixture
def below(tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path) -> Path:
    """A sweep of 50 and 80 %; its student of 80 % has two weights left in one layer."""
    levels = plan_levels(configs(0.5, 0.8), tiny_teacher, dreams, None, tmp_path)
    run_sweep(levels, tiny_teacher, dreams, None)
    thin_out(tmp_path / "s0.8" / "student.safetensors", 2)
    return tmp_path


def all_levels(out: Path, teacher: Teacher, dreams: DreamSet) -> list[Level]:
    return plan_levels(configs(0.5, 0.8, 0.98), teacher, dreams, None, out)


def test_a_level_passes_over_a_student_with_a_bottleneck(
    below: Path, tiny_teacher: Teacher, dreams: DreamSet
) -> None:
    levels = all_levels(below, tiny_teacher, dreams)
    assert [level.state for level in levels] == [FINISHED, FINISHED, "to do"]

    run_sweep(levels, tiny_teacher, dreams, None)

    report = finished_results(levels)[-1].report
    assert report.config["warm_start"] == 0.5
    assert report.config["allocation"] == "lamp"
    (remark,) = [text for text in report.warnings if "did not start from" in text]
    assert remark.startswith("98 % did not start from the student of 80 %: only 2 weights are left")
    assert THIN in remark
    start, student = (
        safetensors.torch.load_file(below / level / "student.safetensors")
        for level in ("s0.5", "s0.98")
    )
    for name in prunable_weights(tiny_teacher.network):
        assert not student[name][start[name] == 0].any()
    # More is left where the bottleneck was than the student of 80 % could have given.
    assert int(student[THIN].count_nonzero()) > 2
    # The same command finds everything done.
    again = all_levels(below, tiny_teacher, dreams)
    assert {level.state for level in again} == {FINISHED}
    assert run_sweep(again, tiny_teacher, dreams, None) == []


def test_a_level_that_was_killed_goes_on_from_the_same_student(
    below: Path, tiny_teacher: Teacher, dreams: DreamSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    whole = below.with_name("whole")
    shutil.copytree(below, whole)

    def stop(report: Progress) -> None:
        if (report.stage, report.done) == ("s0.98 distill", 3):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_sweep(
            all_levels(below, tiny_teacher, dreams), tiny_teacher, dreams, None, progress=stop
        )
    levels = all_levels(below, tiny_teacher, dreams)
    assert levels[-1].state == INTERRUPTED
    assert levels[-1].config.warm_start == 0.5
    run_sweep(levels, tiny_teacher, dreams, None)
    run_sweep(all_levels(whole, tiny_teacher, dreams), tiny_teacher, dreams, None)

    report = finished_results(levels)[-1].report
    assert any("from the student of 80 %" in text for text in report.warnings)
    parts, other = (home / "s0.98" / "student.safetensors" for home in (below, whole))
    assert parts.read_bytes() == other.read_bytes()


def test_a_level_in_the_place_of_another_goes_on_though_its_start_was_not_known(
    below: Path, tiny_teacher: Teacher, dreams: DreamSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = all_levels(below, tiny_teacher, dreams)
    run_sweep(levels, tiny_teacher, dreams, None)
    before = (below / "s0.98" / "student.safetensors").read_bytes()

    def stop(report: Progress) -> None:
        raise KeyboardInterrupt

    levels[-1].promise()  # as a sweep with --overwrite does, before it has students to look at
    levels = all_levels(below, tiny_teacher, dreams)
    assert (levels[-1].state, levels[-1].config.warm_start) == (WAITING, 0.8)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(levels, tiny_teacher, dreams, None, progress=stop)
    levels = all_levels(below, tiny_teacher, dreams)
    assert (levels[-1].state, levels[-1].config.warm_start) == (WAITING, 0.5)
    run_sweep(levels, tiny_teacher, dreams, None)

    assert (below / "s0.98" / "student.safetensors").read_bytes() == before


def test_where_no_student_has_enough_the_teacher_has(
    below: Path, tiny_teacher: Teacher, dreams: DreamSet
) -> None:
    thin_out(below / "s0.5" / "student.safetensors", 2)
    levels = all_levels(below, tiny_teacher, dreams)

    run_sweep(levels, tiny_teacher, dreams, None)

    report = finished_results(levels)[-1].report
    assert report.config["warm_start"] == 0.0
    assert sum("did not start from" in text for text in report.warnings) == 2


def test_a_sound_student_below_is_the_start(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    levels = plan_levels(configs(0.3, 0.98), tiny_teacher, dreams, None, tmp_path)

    run_sweep(levels, tiny_teacher, dreams, None)

    report = finished_results(levels)[-1].report
    assert report.config["warm_start"] == 0.3
    assert not any("did not start from" in text for text in report.warnings)


def test_levels_of_one_allocation_do_not_look_at_students(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    """No file is there to be looked at."""
    low, high = configs(0.5, 0.9)
    nowhere = tmp_path / "student.safetensors"

    assert choose_start(high, [(low, nowhere)], tiny_teacher).student == nowhere
    lamp = dataclasses.replace(low, allocation="lamp", importance="fisher")
    top = dataclasses.replace(configs(0.5, 0.98)[1], allocation="lamp", importance="fisher")
    assert choose_start(top, [(lamp, nowhere)], tiny_teacher).student == nowhere
    # Of another architecture the teacher's masks say nothing.
    of_gradients = {"student": "resnet8", "importance": "fisher", "allocation": None}
    low_8, high_8 = (dataclasses.replace(c, **of_gradients) for c in configs(0.5, 0.98))
    settled = [resolved(config, tiny_teacher).allocation for config in (low_8, high_8)]
    assert settled == ["global", "lamp"]
    assert choose_start(high_8, [(low_8, nowhere)], tiny_teacher).student == nowhere
    cold = dataclasses.replace(top, warm_start=None)
    assert choose_start(cold, [(low, nowhere)], tiny_teacher).student is None


@pytest.mark.parametrize(("left", "starved"), [(5, True), (6, False), (7, False)])
def test_two_thirds_of_what_a_layer_needs_are_enough(left: int, starved: bool) -> None:
    """Of two layers alike of 18 weights, half of all kept are 9 of each, and 6 of 9 are enough."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6))
    first, last = (teacher[0].weight.detach(), teacher[2].weight.detach())
    with torch.no_grad():
        last.copy_(first.reshape(6, 3))
    student = copy.deepcopy(teacher)
    student[2].weight.data.view(-1)[left:] = 0
    config = quick_config(sparsity=0.5, allocation="lamp", importance="magnitude")

    found = starved_layer(student, choose_masks(teacher, config, config.sparsity).kept)

    assert found == (f"{left} weights are left in 2.weight, and it needs 9" if starved else None)


def test_a_recorded_start_that_is_no_number_is_one_line(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    place = tmp_path / "s0.98" / NEXT_NAME
    place.mkdir(parents=True)
    (place / "arguments.json").write_text('{"--warm-start": []}')

    with pytest.raises(IncompatibleError, match="holds an unfinished run with"):
        plan_levels(configs(0.5, 0.98), tiny_teacher, dreams, None, tmp_path)
