"""Levels of channels that start from the student of the level before."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from recover_fixtures import features_beside, quick_config, self_contained_dreams

from recover.beginning import begin_again
from recover.channels import slimming_of
from recover.cli import main
from recover.config import RecoverConfig
from recover.export import load_student
from recover.masks import dense_masks
from recover.pipeline import new_distillation, recover_student
from recover.preparation import prepare
from recover.results import read_report
from recover.schedule import channels_at
from recover.sweep import plan_levels, run_sweep
from recover.warm_start import warm_starts, with_start
from shared.checkpoint import load_checkpoint, save_network
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError
from shared.progress import Progress
from shared.teacher import Teacher

FRACTIONS = (0.75, 0.5, 0.25)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return self_contained_dreams(tmp_path_factory.mktemp("set"), tiny_teacher)


def level(fraction: float, **changes: Any) -> RecoverConfig:
    return quick_config(**{"sparsity": 0.0, "channels": fraction, "steps": 6, **changes})


def warm(**changes: Any) -> list[RecoverConfig]:
    return list(warm_starts([level(fraction, **changes) for fraction in FRACTIONS]))


def sweep(teacher: Teacher, dreams: DreamSet, out: Path, **changes: Any) -> list[Path]:
    levels = plan_levels(warm(**changes), teacher, dreams, None, out)
    run_sweep(levels, teacher, dreams, None)
    return [level.folder / "student.safetensors" for level in levels]


@pytest.fixture(scope="module")
def students(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    return sweep(tiny_teacher, dreams, tmp_path_factory.mktemp("levels"))


def left_in(student: Path) -> dict[str, list[int]]:
    left = load_student(student).facts["channels_left"]
    assert isinstance(left, dict)
    return left


def test_every_level_starts_with_what_the_one_before_has() -> None:
    assert [config.warm_start for config in warm()] == [1.0, 0.75, 0.5]
    middle = warm(steps=100, prune_end=0.5)[1]

    assert channels_at(middle, 0) == 0.75
    assert channels_at(middle, 25) == pytest.approx(0.5 + 0.25 / 8)
    assert channels_at(middle, 50) == channels_at(middle, 99) == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warm_start": 0.4}, r"with 0\.4 of the channels, expected at least the 0\.5"),
        ({"warm_start": 1.1}, "--warm-start: found a student with 1.1"),
        ({"warm_start": 0.75, "schedule": "one-shot"}, "found channels that are cut in one shot"),
        ({"warm_start": 0.75, "steps": 0}, "found channels that are cut in one shot"),
    ],
)
def test_no_run_starts_from_less_or_has_no_way_to_go(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        level(0.5, **changes)


def test_channels_that_are_gone_stay_gone(students: list[Path], tiny_teacher: Teacher) -> None:
    records = [left_in(student) for student in students]
    sizes = [sum(map(len, record.values())) for record in records]

    assert sizes == sorted(sizes, reverse=True)
    for before, after in itertools.pairwise(records):
        assert before.keys() == after.keys()
        assert all({*after[group]} <= {*before[group]} for group in before)
    macs = [read_report(student.parent).costs for student in students]
    assert all(
        cost is not None and cost.macs_dense < (cost.macs_teacher or 0) * fraction**1.5
        for cost, fraction in zip(macs, FRACTIONS, strict=True)
    )
    for student, fraction in zip(students, FRACTIONS, strict=True):
        slimming = slimming_of(tiny_teacher, level(fraction))
        network = load_student(student).classifier.network
        assert slimming is not None
        assert slimming.restore_record(left_in(student), network)
        assert slimming.record() == left_in(student)


def test_the_first_level_is_that_of_a_cold_sweep(
    students: list[Path], tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    recover_student(level(0.75), tiny_teacher, dreams, None, tmp_path)

    ours, other = (
        safetensors.torch.load_file(path)
        for path in (students[0], tmp_path / "student.safetensors")
    )
    assert all(torch.equal(ours[name], other[name]) for name in other)


def test_a_level_begins_as_the_student_before_it(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    """Where as many channels are to stay as it has, nothing of it is cut."""
    config = level(0.5, importance="magnitude", repair_images=0)
    before = recover_student(config, tiny_teacher, dreams, None, tmp_path / "one")
    start = tmp_path / "one" / "student.safetensors"

    config = dataclasses.replace(config, warm_start=0.5)
    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "two", start=start)

    assert report.pruned == before.recovered
    assert report.teacher == before.teacher
    assert left_in(tmp_path / "two" / "student.safetensors") == left_in(start)


def test_what_layers_share_is_not_evened_out_before_gradients_tell(
    students: list[Path], tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    """By what they are worth, some layers keep more than half of their channels, others less."""
    whole = slimming_of(tiny_teacher, level(0.5))
    assert whole is not None
    sizes = {name: len(units) for name, units in whole.record().items()}
    shares = {len(units) / sizes[name] for name, units in left_in(students[1]).items()}
    assert max(shares) > 0.5
    config = level(0.5, warm_start=0.5)

    recover_student(config, tiny_teacher, dreams, None, tmp_path, start=students[1])

    assert left_in(tmp_path / "student.safetensors") == left_in(students[1])


def test_features_are_those_of_the_channels_that_the_student_has(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    """What the first layers make is not changed by a cut but for what is missing of it."""
    untaught = level(0.5, lr=1e-12, bn_mode="frozen", repair_images=0, weight_decay=0.0)
    recover_student(untaught, tiny_teacher, dreams, None, tmp_path)
    setup = prepare(level(0.25, warm_start=0.5), tiny_teacher, dreams)
    setup = with_start(setup, tmp_path / "student.safetensors")
    student = copy.deepcopy(setup.origin.network)
    run = new_distillation(setup, student, dense_masks(student))

    features, targets, shared = features_beside(tiny_teacher, run)

    assert all(features[key].shape == shared[key].shape for key in features)
    first = next(iter(features))
    assert features[first].shape[1] < targets[first].shape[1]
    assert torch.allclose(features[first], shared[first], atol=1e-5)


def test_levels_that_were_killed_end_with_the_same_students(
    students: list[Path],
    tiny_teacher: Teacher,
    dreams: DreamSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)

    def stop(report: Progress) -> None:
        if (report.stage, report.done) == ("c0.5 distill", 4):
            raise RuntimeError("killed")

    levels = plan_levels(warm(checkpoint_every=1e-9), tiny_teacher, dreams, None, tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        run_sweep(levels, tiny_teacher, dreams, None, progress=stop)

    again = sweep(tiny_teacher, dreams, tmp_path, checkpoint_every=1e-9)

    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in students]


def test_a_diverged_level_begins_again_where_the_one_before_ended(
    students: list[Path], tiny_teacher: Teacher, dreams: DreamSet
) -> None:
    setup = with_start(prepare(warm()[1], tiny_teacher, dreams), students[0])

    network, _ = begin_again(setup)

    start = load_student(students[0]).classifier.network.state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        lambda record: None,
        lambda record: [],
        lambda record: {**record, "0": []},
        lambda record: {**record, "0": record["0"][::-1]},
        lambda record: {**record, "0": record["0"][:-1]},
        lambda record: {**record, "0": [*record["0"][:-1], 10**6]},
        lambda record: {**record, "0": [-1, *record["0"][1:]]},
        lambda record: {**record, "0": [float(unit) for unit in record["0"]]},
        lambda record: {**record, "99": [0]},
        lambda record: dict(list(record.items())[1:]),
    ],
)
def test_a_record_that_is_none_of_this_network_is_refused(
    students: list[Path],
    tiny_teacher: Teacher,
    dreams: DreamSet,
    tmp_path: Path,
    change: Callable[[dict[str, list[int]]], Any],
) -> None:
    found = load_checkpoint(students[0])
    record = {**found.metadata["recover"], "channels_left": change(left_in(students[0]))}
    network = load_student(students[0]).classifier.network
    save_network(tmp_path / "s.safetensors", network, {**found.metadata, "recover": record})

    with pytest.raises(IncompatibleError, match="found no record of the teacher's channels"):
        with_start(prepare(warm()[1], tiny_teacher, dreams), tmp_path / "s.safetensors")


def test_a_student_of_other_channels_is_no_start(
    students: list[Path], tiny_teacher: Teacher, dreams: DreamSet
) -> None:
    with pytest.raises(IncompatibleError, match=r"found channels 0\.75, expected 0\.5 to start"):
        with_start(prepare(warm()[2], tiny_teacher, dreams), students[0])


@pytest.fixture
def command(runner: CliRunner, dreams: DreamSet, tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        quick = ("--steps", "6", "--batch-size", "16", "--repair-images", "32", "--device", "cpu")
        paths = ("--dreams", str(dreams.path), "--out", str(tmp_path / "levels"))
        return runner.invoke(main, ["sweep", *quick, *paths, "--channels", "0.75,0.5", *arguments])

    return run


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ((), [1.0, 0.75]),
        (("--no-warm-start",), [None, None]),
        (("--schedule", "one-shot"), [None, None]),
    ],
)
def test_the_command_starts_where_it_can(
    command: Callable[..., Result],
    tmp_path: Path,
    arguments: tuple[str, ...],
    starts: list[float | None],
) -> None:
    done = command(*arguments, "--json")

    assert done.exit_code == 0, done.output
    assert [report["config"]["warm_start"] for report in json.loads(done.stdout)] == starts
    again = command(*arguments, "--json")
    assert json.loads(again.stdout) == json.loads(done.stdout)
    page = page_of(tmp_path / "levels")
    assert ("starts from the student of the level below" in page) == (starts[0] is not None)


def page_of(levels: Path) -> str:
    out = levels.parent / "report.html"
    done = CliRunner().invoke(main, ["report", str(levels), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out.read_text()


def test_what_is_cut_in_one_shot_is_not_asked_to_start_so(command: Callable[..., Result]) -> None:
    refused = command("--schedule", "one-shot", "--warm-start")

    assert refused.exit_code == 2
    assert "--warm-start: found channels that are cut in one shot" in refused.stderr
