import copy
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import Result
from conftest import blobs
from recover_fixtures import prune, quick_config, self_contained_dreams

from recover.export import load_student
from recover.importance import magnitudes, prunable_weights
from recover.masks import global_masks
from recover.oneshot import prune_student
from recover.pipeline import recover_student
from recover.preparation import prepare
from recover.prune import images_to_plan_by, plan_pruning
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError
from shared.progress import Progress
from shared.teacher import Teacher

LAST = "linear.weight"


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    """A dream set with its teacher inside."""
    return self_contained_dreams(tmp_path_factory.mktemp("set"), tiny_teacher)


def error_of(result: Result) -> str:
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line.lower()]
    return line


def nonzero(path: Path, teacher: Teacher) -> int:
    saved = safetensors.torch.load_file(path)
    assert saved.keys() == teacher.network.state_dict().keys()
    return sum(int(saved[name].count_nonzero()) for name in prunable_weights(teacher.network))


def test_the_plan_says_what_pruning_does_to_every_layer(tiny_teacher: Teacher) -> None:
    masks = global_masks(magnitudes(tiny_teacher.network), 0.9)

    plan = plan_pruning(quick_config(sparsity=0.9), tiny_teacher)

    weights = prunable_weights(tiny_teacher.network)
    assert [layer.name for layer in plan.layers] == list(weights)
    assert plan.num_weights == sum(layer.num_weights for layer in plan.layers)
    assert plan.num_kept == round(0.1 * plan.num_weights)
    assert sum(layer.share for layer in plan.layers) == pytest.approx(1)
    for layer in plan.layers:
        weight, kept = weights[layer.name].double(), masks.kept[layer.name]
        assert layer.shape == tuple(weight.shape)
        assert layer.num_kept == int(kept.sum())
        assert layer.sparsity == 1 - layer.num_kept / layer.num_weights
        left = float((weight * kept).square().sum() / weight.square().sum())
        assert layer.lost_energy == pytest.approx(1 - left)
        assert layer.lone_agreement is None
        assert not layer.never_pruned
    assert (plan.agreement, plan.num_images) == (None, 0)


def test_sensitivity_is_the_agreement_with_one_layer_pruned(tiny_teacher: Teacher) -> None:
    images, _ = blobs(40, seed=3)
    before = copy.deepcopy(tiny_teacher.network.state_dict())
    reports: list[Progress] = []

    plan = plan_pruning(quick_config(sparsity=0.97), tiny_teacher, images, reports.append)

    answers = tiny_teacher.logits(images).argmax(1)
    weights = prunable_weights(tiny_teacher.network)
    for layer in plan.layers:
        teacher = copy.deepcopy(tiny_teacher)
        weight = prunable_weights(teacher.network)[layer.name]
        one = {layer.name: weights[layer.name].abs()}
        weight.data[~global_masks(one, 0.97).kept[layer.name]] = 0
        same = (teacher.logits(images).argmax(1) == answers).float().mean()
        assert layer.lone_agreement == pytest.approx(float(same))
    assert len({layer.lone_agreement for layer in plan.layers}) > 1
    assert plan.num_images == 40
    done = [report.done for report in reports if report.stage == "sensitivity"]
    assert done == list(range(1, len(weights) + 1))
    assert all(torch.equal(before[n], t) for n, t in tiny_teacher.network.state_dict().items())


def test_at_sparsity_zero_nothing_is_lost(tiny_teacher: Teacher) -> None:
    plan = plan_pruning(quick_config(sparsity=0.0), tiny_teacher, blobs(8)[0])

    assert plan.agreement == 1
    for layer in plan.layers:
        assert (layer.sparsity, layer.lost_energy, layer.lone_agreement) == (0, 0, 1)


def test_an_emptied_layer_is_warned_about_by_name(tiny_teacher: Teacher) -> None:
    plan = plan_pruning(quick_config(sparsity=0.9999), tiny_teacher)

    empty = [layer.name for layer in plan.layers if layer.num_kept == 0]
    assert empty
    (warning,) = plan.warnings
    assert all(name in warning for name in empty)


def test_layers_are_measured_on_dreams_that_are_not_held_out(
    tiny_teacher: Teacher, dreams: DreamSet
) -> None:
    setup = prepare(quick_config(), tiny_teacher, dreams)
    train = {image.numpy().tobytes() for image in dreams.images(setup.split.train)}

    images = images_to_plan_by(setup, 20)

    assert len(images) == 20
    assert {image.numpy().tobytes() for image in images} <= train
    assert torch.equal(images, images_to_plan_by(setup, 20))
    assert len(images_to_plan_by(setup, 10**6)) == len(setup.split.train)
    assert len(images_to_plan_by(setup, 0)) == 0


def test_with_dreams_a_pruned_student_is_a_run_of_no_steps(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = quick_config(schedule="one-shot", steps=0)
    expected = recover_student(config, tiny_teacher, dreams, None, tmp_path / "run")

    report = prune_student(quick_config(), tiny_teacher, dreams, tmp_path / "pruned")

    assert report.stages == expected.stages
    assert report.recovered == report.repaired
    files = [tmp_path / name / "student.safetensors" for name in ("run", "pruned")]
    ours, theirs = (safetensors.torch.load_file(file) for file in files)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {path.name for path in (tmp_path / "pruned").iterdir()} == {
        "student.safetensors",
        "report.json",
    }


def test_without_dreams_only_the_zeros_change(tiny_teacher: Teacher, tmp_path: Path) -> None:
    report = prune_student(quick_config(), tiny_teacher, None, tmp_path / "o", command="x")

    saved = safetensors.torch.load_file(tmp_path / "o" / "student.safetensors")
    for name, tensor in tiny_teacher.network.state_dict().items():
        changed = saved[name] != tensor
        assert not saved[name][changed].any()
    assert nonzero(tmp_path / "o" / "student.safetensors", tiny_teacher) == report.num_kept
    assert report.num_kept == round(0.2 * report.num_weights) == report.recovered.num_nonzero
    assert report.pruned == report.recovered
    assert (report.recovered.accuracy, report.recovered.agreement) == (None, None)
    assert report.config["repair_images"] == 0
    record = json.loads((tmp_path / "o" / "report.json").read_text())
    assert record == json.loads(json.dumps(report.to_json()))
    assert record["provenance"]["command"] == "x"
    facts = load_student(tmp_path / "o" / "student.safetensors").facts
    assert facts["teacher_fingerprint"] == tiny_teacher.spec.fingerprint


def test_an_unfinished_run_is_not_pruned_over(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    def stop(report: Progress) -> None:
        if report.stage == "judge recovered student":
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        recover_student(quick_config(), tiny_teacher, dreams, None, tmp_path, stop)

    with pytest.raises(IncompatibleError, match="holds an unfinished run"):
        prune_student(quick_config(), tiny_teacher, None, tmp_path)
    prune_student(quick_config(), tiny_teacher, None, tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="holds a finished run"):
        prune_student(quick_config(), tiny_teacher, None, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"allocation": "lamp"},
        {"allocation": "erk", "keep_first": True},
        {"allocation": "uniform", "schedule": "one-shot"},
        {"importance": "random", "keep": LAST},
    ],
)
def test_runs_end_with_exact_zeros_whatever_chooses_them(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = quick_config(sparsity=0.9, **changes)

    report = recover_student(config, tiny_teacher, dreams, None, tmp_path)

    assert report.num_kept == round(0.1 * report.num_weights)
    assert nonzero(tmp_path / "student.safetensors", tiny_teacher) == report.num_kept
    kept = {layer.name: layer.kept for layer in report.layers}
    whole = {"keep_first": "conv1.weight", "keep": LAST}
    for option in whole.keys() & changes:
        weight = prunable_weights(tiny_teacher.network)[whole[option]]
        assert kept[whole[option]] == weight.numel()


def test_layers_to_keep_are_checked_before_anything_is_spent(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = quick_config(keep="layer3.*", sparsity=0.9)

    with pytest.raises(ConfigError, match="weights in the layers to keep"):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "o")

    assert not (tmp_path / "o").exists()


def test_the_command_shows_every_layer_and_writes_nothing(
    teacher_file: Path, tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = prune("--teacher", teacher_file, "--sparsity", 0.9, "--keep", LAST)

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["resnet8", "at", "90", "%", "sparsity"]
    rows = {cells[1].strip(): cells[2:-1] for line in lines if len(cells := line.split("│")) > 2}
    assert list(rows) == [*prunable_weights(tiny_teacher.network), "all"]
    cells = [cell.strip() for cell in rows[LAST]]
    assert cells[:4] == ["4x64", "256", "256", "kept"]
    assert cells[5] == "0.00 %"
    assert not list(tmp_path.iterdir())


def test_what_dreams_are_needed_for_is_refused_without(teacher_file: Path, tmp_path: Path) -> None:
    arguments = ("--teacher", teacher_file, "--sparsity", 0.9, "--reconstruct", "least-squares")

    for more in ((), ("--out", tmp_path / "o")):
        result = prune(*arguments, *more)
        assert result.exit_code == 2
        assert "found no --dreams" in result.stderr


def test_the_command_measures_on_dreams_and_saves(dreams: DreamSet, tmp_path: Path) -> None:
    arguments = ("--dreams", dreams.path, "--out", tmp_path / "o", "--allocation", "lamp")
    arguments = (*arguments, "--keep", "conv1.*,linear.*", "--sensitivity-images", 16)

    dry = json.loads(prune(*arguments, "--dry-run", "--json").stdout)
    assert not (tmp_path / "o").exists()
    shown = prune(*arguments)
    record = json.loads(prune(*arguments, "--overwrite", "--json").stdout)

    assert dry["report"] is None
    assert record["report"].pop("seconds") > 0
    assert {**record, "report": None} == dry
    assert record["num_images"] == 16
    assert all(0 <= layer["lone_agreement"] <= 1 for layer in record["layers"])
    assert [layer["name"] for layer in record["layers"] if layer["never_pruned"]] == [
        "conv1.weight",
        LAST,
    ]
    assert sum(layer["num_kept"] for layer in record["layers"]) == record["num_kept"]
    assert record["report"]["num_kept"] == record["num_kept"]
    assert record["report"]["config"]["allocation"] == "lamp"
    assert record["report"] == {
        name: value
        for name, value in json.loads((tmp_path / "o" / "report.json").read_text()).items()
        if name != "seconds"
    }
    assert "agreement, pruned alone" in shown.stdout
    assert "agreement with the teacher on held-out dreams: pruned" in shown.stdout
    assert f"student: {tmp_path / 'o'}/student.safetensors" in shown.stdout
    assert "sensitivity: 8/8 layers" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        ([], 2, "nothing to prune: pass --teacher, --dreams or both"),
        (["--teacher", "missing.pt"], 3, "missing.pt"),
        (["--teacher", "TEACHER", "--keep", "fc.*"], 2, "--keep: found 'fc.*'"),
        (["--teacher", "TEACHER", "--keep", "lay*"], 2, "weights in the layers to keep"),
        (["--teacher", "TEACHER", "--allocation", "snip"], 2, "--allocation"),
        (["--dreams", "SET", "--out", "FILE"], 2, "found a file, expected a folder"),
    ],
)
def test_wrong_arguments_are_one_line(
    teacher_file: Path,
    dreams: DreamSet,
    tmp_path: Path,
    arguments: list[str],
    exit_code: int,
    text: str,
) -> None:
    names = {"TEACHER": teacher_file, "SET": dreams.path, "FILE": tmp_path / "file"}
    (tmp_path / "file").touch()

    result = prune(*(names.get(word, word) for word in arguments))

    assert result.exit_code == exit_code, result.output
    assert text in error_of(result)
    assert not result.stdout


@pytest.mark.parametrize("source", ["teacher", "dreams"])
def test_a_finished_run_is_shown_again_and_kept_unless_overwritten(
    teacher_file: Path, dreams: DreamSet, tmp_path: Path, source: str
) -> None:
    given = teacher_file if source == "teacher" else dreams.path
    arguments = (f"--{source}", given, "--out", tmp_path / "o", "--sensitivity-images", 0)
    first = prune(*arguments, "--json")
    assert first.exit_code == 0, first.output
    before = (tmp_path / "o" / "report.json").stat().st_mtime_ns

    again = prune(*arguments, "--json")

    assert again.exit_code == 0, again.output
    assert "already finished" in again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert (tmp_path / "o" / "report.json").stat().st_mtime_ns == before
    other = prune(*arguments, "--sparsity", 0.7)
    assert other.exit_code == 4
    assert "holds a finished run with --sparsity 0.8 (now 0.7)" in error_of(other)
    assert prune(*arguments, "--dry-run").exit_code == 0
    assert prune(*arguments, "--overwrite").exit_code == 0
    assert (tmp_path / "o" / "report.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_what_needs_steps_cannot_prune_in_one_shot(
    teacher_file: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    result = prune(
        *("--teacher", teacher_file, "--out", tmp_path / "o", "--importance", "fisher", *more)
    )

    assert result.exit_code == 2
    assert "--importance fisher: found pruning in one shot" in result.stderr
    assert not (tmp_path / "o").exists()
