import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from recover_fixtures import blob_dreams, quick_config

from recover.beginning import pruned_copy
from recover.cli import main
from recover.mending import mend, mending_warnings, repair
from recover.oneshot import prune_student
from recover.pipeline import recover_student
from recover.preparation import Setup, prepare
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.progress import Progress
from shared.teacher import Teacher

METHODS: list[dict[str, Any]] = [
    {"repair": "matched"},
    {"reconstruct": "least-squares"},
    {"reconstruct": "least-squares", "repair": "matched"},
    {"reconstruct": "least-squares", "repair": "none"},
]


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return blob_dreams(tmp_path_factory.mktemp("set"), tiny_teacher)


def setup_of(teacher: Teacher, dreams: DreamSet, **changes: Any) -> Setup:
    return prepare(quick_config(sparsity=0.9, **changes), teacher, dreams)


def error_after(setup: Setup) -> float:
    """Return how far the mended network's logits are from the teacher's on held-out dreams."""
    network, masks = pruned_copy(setup.origin, setup.config)
    mend(setup, network, masks)
    masks.check(network)
    images = setup.dreams.images(setup.split.held_out)
    inputs = setup.teacher.normalize(images / 255)
    with torch.no_grad():
        return float((network(inputs) - setup.teacher.network(inputs)).square().mean())


def test_reconstruction_brings_the_logits_nearer(tiny_teacher: Teacher, dreams: DreamSet) -> None:
    def error(**changes: Any) -> float:
        return error_after(setup_of(tiny_teacher, dreams, **changes))

    none = error(repair="none")
    fitted = [error(reconstruct="least-squares", repair=name) for name in ("none", "matched")]

    assert max(fitted) < 0.5 * none
    assert error(reconstruct="least-squares") < error()


@pytest.mark.parametrize("changes", [{"repair": "none"}, {"repair_images": 0}], ids=str)
def test_nothing_asked_for_is_nothing_done(
    tiny_teacher: Teacher, dreams: DreamSet, changes: dict[str, Any]
) -> None:
    setup = setup_of(tiny_teacher, dreams, **changes)
    network, masks = pruned_copy(setup.origin, setup.config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    assert not mend(setup, network, masks)
    assert not repair(setup, network)

    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_run_records_it_as_repaired_and_distils_from_it(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, method: dict[str, Any]
) -> None:
    stages: list[str] = []

    def note(report: Progress) -> None:
        stages.append(report.stage)

    config = quick_config(sparsity=0.9, schedule="one-shot", steps=2, **method)
    report = recover_student(config, tiny_teacher, dreams, None, tmp_path, note)

    assert ("reconstruct" in stages) == ("reconstruct" in method)
    assert report.repaired.num_nonzero <= report.pruned.num_nonzero == report.num_kept
    assert report.recovered.num_nonzero <= report.num_kept
    assert not any("--reconstruct" in text for text in report.warnings)
    saved = safetensors.torch.load_file(tmp_path / "student.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_an_interrupted_reconstruction_starts_over_and_ends_the_same(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    def stop(report: Progress) -> None:
        if report.stage == "reconstruct" and report.done == 3:
            raise KeyboardInterrupt

    config = quick_config(schedule="one-shot", steps=2, **METHODS[2])
    with pytest.raises(KeyboardInterrupt):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "parts", stop)
    parts = recover_student(config, tiny_teacher, dreams, None, tmp_path / "parts")
    whole = recover_student(config, tiny_teacher, dreams, None, tmp_path / "whole")

    assert parts.stages == whole.stages
    files = [tmp_path / name / "student.safetensors" for name in ("parts", "whole")]
    ours, theirs = (safetensors.torch.load_file(file) for file in files)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_gradual_run_starts_dense_whatever_is_reported(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    students = []
    for name, method in (("plain", {}), ("fitted", METHODS[1])):
        recover_student(quick_config(**method), tiny_teacher, dreams, None, tmp_path / name)
        students.append(safetensors.torch.load_file(tmp_path / name / "student.safetensors"))

    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_what_cannot_be_reconstructed_is_a_warning(
    tiny_teacher: Teacher, dreams: DreamSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recover.reconstruct.MOST_INPUTS", 64)
    setup = setup_of(tiny_teacher, dreams, reconstruct="least-squares")

    (warning,) = mending_warnings(setup)

    assert "layer3.0.conv2.weight" in warning
    assert "conv1.weight, " not in warning.split("layer1", maxsplit=1)[0]
    assert mending_warnings(setup_of(tiny_teacher, dreams)) == []


def test_reconstruction_needs_dreams(tiny_teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found --repair-images 0"):
        quick_config(reconstruct="least-squares", repair_images=0)
    with pytest.raises(ConfigError, match="found no --dreams"):
        prune_student(quick_config(reconstruct="least-squares"), tiny_teacher, None, tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("method", METHODS[:2], ids=str)
def test_a_student_with_random_weights_has_nothing_to_be_near_to(method: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="random weights"):
        quick_config(student="resnet8", sparsity=0.5, **method)


def test_the_prune_command_does_both(teacher_file: Path, dreams: DreamSet, tmp_path: Path) -> None:
    command = ["prune", "--teacher", str(teacher_file), "--dreams", str(dreams.path)]
    command += ["--sparsity", "0.9", "--sensitivity-images", "0", "--device", "cpu"]
    command += ["--reconstruct", "least-squares", "--repair", "matched", "--batch-size", "16"]

    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "o"), "--json"])

    assert result.exit_code == 0, result.output
    assert "reconstruct: 8/8 layers" in result.stderr
    report = json.loads(result.stdout)["report"]
    assert report["config"]["reconstruct"] == "least-squares"
    assert report["repaired"] == report["recovered"]
    assert report["repaired"]["agreement"] >= report["pruned"]["agreement"]
