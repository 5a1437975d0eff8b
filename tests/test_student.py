"""A student of another architecture: where it starts, what is refused, and the whole run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import IMAGE_SHAPE, NUM_CLASSES
from recover_fixtures import blob_dreams, quick_config
from torch import nn

from recover.cli import main
from recover.config import RecoverConfig
from recover.examine import examine_student
from recover.export import load_student, teacher_beside
from recover.markdown_report import to_markdown
from recover.page import Page, compose
from recover.pipeline import recover_student
from recover.plan import plan_recovery
from recover.preparation import prepare
from recover.results import find_results
from recover.student import origin_of_student, random_network
from shared.architectures import build_network
from shared.checkpoint import save_network, to_safetensors
from shared.dreamset import DreamSet
from shared.errors import CheckpointError, ConfigError, IncompatibleError
from shared.progress import Progress
from shared.teacher import Teacher, fingerprint

ANOTHER = "resnet8_b"  # the tiny teacher is a resnet8
PLAIN = """
from torch import nn

def plain(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 7))

def silent():
    return nn.Identity()
"""


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    blob = to_safetensors(tiny_teacher.network, tiny_teacher.spec.to_json())
    return blob_dreams(tmp_path_factory.mktemp("dreams"), tiny_teacher, teacher=blob)


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)


def transfer(**changes: Any) -> RecoverConfig:
    facts = {"student": ANOTHER, "sparsity": 0.0, "repair_images": 0, "lr": 0.1}
    return quick_config(**(facts | changes))


def saved(path: Path, architecture: str, **metadata: Any) -> str:
    network = build_network(architecture, num_classes=metadata.pop("num_classes", NUM_CLASSES))
    save_network(path, network, metadata)
    return str(path)


def test_without_another_student_the_teacher_is_where_it_starts(tiny_teacher: Teacher) -> None:
    assert origin_of_student(quick_config(), tiny_teacher) == (tiny_teacher, ())


def test_random_weights_depend_on_the_seed_and_leave_the_global_stream(
    tiny_teacher: Teacher,
) -> None:
    before = torch.get_rng_state()

    first, again, other = (random_network(ANOTHER, tiny_teacher.spec, seed) for seed in (1, 1, 2))

    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_a_student_has_the_teachers_classes_and_preprocessing(tiny_teacher: Teacher) -> None:
    origin, remarks = origin_of_student(transfer(), tiny_teacher)

    own, its = origin.spec.to_json(), tiny_teacher.spec.to_json()
    assert {name for name in own if own[name] != its[name]} == {"architecture", "fingerprint"}
    assert own["architecture"] == ANOTHER
    assert remarks == ()


def test_weights_of_a_checkpoint_are_what_the_student_starts_with(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    path = saved(tmp_path / "s.safetensors", ANOTHER, mean=[0.1] * 3, std=[0.25] * 3)

    origin, remarks = origin_of_student(transfer(student_weights=path), tiny_teacher)

    expected = fingerprint(load_state(path))
    assert origin.spec.fingerprint == fingerprint(origin.network) == expected
    assert origin.spec.path == path
    assert origin.spec.mean == tiny_teacher.spec.mean
    (remark,) = remarks
    assert "another mean;" in remark


def load_state(path: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize(
    ("architecture", "metadata", "error", "text"),
    [
        ("resnet8", {}, CheckpointError, "resnet8_b: 10 of its 47 tensors are missing"),
        (ANOTHER, {"num_classes": 7}, IncompatibleError, "7 classes and 3 channels, the teacher"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    tiny_teacher: Teacher,
    tmp_path: Path,
    architecture: str,
    metadata: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    path = saved(tmp_path / "s.safetensors", architecture, **metadata)

    with pytest.raises(error, match=text) as caught:
        origin_of_student(transfer(student_weights=path), tiny_teacher)

    assert str(caught.value).startswith(f"--student-weights {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("student", "error", "text"),
    [
        ("resnet9", ConfigError, "did you mean"),
        ("cifar_vgg11_bn", IncompatibleError, "does not take the dreams' images of 3x8x8"),
        ("somebodys:fixed", IncompatibleError, r"answers two images with \(2, 7\).* has 4 classes"),
        ("somebodys:silent", IncompatibleError, r"answers two images with \(2, 3, 8, 8\)"),
    ],
)
def test_a_student_that_cannot_stand_in_is_refused_in_one_line(
    tiny_teacher: Teacher, student: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        origin_of_student(transfer(student=student), tiny_teacher)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"student": None, "student_weights": "s.pt"}, "--student-weights s.pt: found no --stu"),
        ({"bn_mode": "frozen"}, "--bn-mode frozen: found --student resnet8_b with random weights"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        transfer(**changes)


def test_a_student_learns_from_scratch_and_is_opened_again(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    report = recover_student(transfer(steps=60), tiny_teacher, dreams, None, tmp_path / "out")

    assert report.student == ANOTHER
    assert list(report.shown_stages) == ["teacher", "untaught", "taught"]
    assert report.pruned.agreement is not None
    assert report.recovered.agreement is not None
    assert report.pruned.agreement < 0.6
    assert report.recovered.agreement > 0.9
    assert report.num_kept == report.num_weights
    assert report.costs is not None
    # Two 1x1 shortcuts, 16 to 32 and 32 to 64 channels, are what the student has and its teacher
    # has not: on 4x4 and on 2x2 positions.
    assert report.costs.num_weights_teacher is not None
    assert report.costs.macs_teacher is not None
    assert report.num_weights - report.costs.num_weights_teacher == 16 * 32 + 32 * 64
    assert report.costs.macs_dense - report.costs.macs_teacher == 16 * 32 * 16 + 32 * 64 * 4
    origin = report.provenance
    assert (origin["teacher"]["architecture"], origin["student"]["architecture"]) == (
        "resnet8",
        ANOTHER,
    )

    student = load_student(tmp_path / "out" / "student.safetensors")
    assert student.classifier.spec.architecture == ANOTHER
    assert student.facts["teacher_fingerprint"] == tiny_teacher.spec.fingerprint
    assert teacher_beside(student).architecture == "resnet8"
    verdict = examine_student(student, tiny_teacher, dreams, None, "cpu")
    assert verdict.stage == report.recovered
    assert verdict.warnings == ()


def test_a_student_is_pruned_as_gradually_as_any_other_when_asked(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    report = recover_student(transfer(sparsity=0.75), tiny_teacher, dreams, None, tmp_path / "o")

    assert report.num_kept == round(0.25 * report.num_weights)
    assert report.recovered.num_nonzero == report.num_kept
    rows = [
        json.loads(line) for line in (tmp_path / "o" / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert rows[-1]["sparsity"] == pytest.approx(0.75, abs=1e-4)


def test_an_interrupted_transfer_ends_as_an_undisturbed_one(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    config = transfer(checkpoint_every=1e-9)
    recover_student(config, tiny_teacher, dreams, None, tmp_path / "whole")

    def killed(report: Progress) -> None:
        if report.stage == "distill" and report.done == 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "cut", killed)
    other = quick_config(sparsity=0.0, repair_images=0, lr=0.1)
    with pytest.raises(IncompatibleError, match="--student resnet8_b"):
        recover_student(other, tiny_teacher, dreams, None, tmp_path / "cut")
    recover_student(config, tiny_teacher, dreams, None, tmp_path / "cut")

    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_the_plan_names_both_architectures(tiny_teacher: Teacher, dreams: DreamSet) -> None:
    plan = plan_recovery(prepare(transfer(), tiny_teacher, dreams))

    assert (plan.architecture, plan.student) == ("resnet8", ANOTHER)
    assert plan.num_kept == plan.num_weights


def test_the_page_shows_a_student_beside_its_teacher(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    for name, config in (
        ("a", transfer(steps=2)),
        ("b", transfer(steps=2, student="resnet14")),
        ("c", quick_config(steps=2)),
    ):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / name)
    students, _ = find_results([tmp_path / "a", tmp_path / "b"])
    everything, _ = find_results([tmp_path])

    alone, mixed = compose(students), compose(everything)

    assert columns_of(alone)[0][:4] == ("student", "teacher", "untaught", "taught")
    assert columns_of(mixed)[0][:5] == ("sparsity", "teacher", "pruned", "repaired", "recovered")
    of_alone, of_mixed = (
        {part.title for part in page.sections if not part.title.startswith("Settings of")}
        for page in (alone, mixed)
    )
    assert of_mixed - of_alone == {
        "What repair and distillation give",
        "Which layers are pruned",
    }
    text = to_markdown(alone)
    assert "\n| teacher |" in text
    assert "\n| resnet14 |" in text
    assert "random weights of seed 0" in text
    assert "Unstructured zeros" not in text
    assert "Unstructured zeros" in to_markdown(mixed)


def columns_of(page: Page) -> list[tuple[str, ...]]:
    return [table.columns for section in page.sections for table in section.tables]


def run(runner: CliRunner, *arguments: object) -> Any:
    quick = ("--batch-size", 16, "--device", "cpu", "--precision", "float32")
    return runner.invoke(main, list(map(str, ["run", *quick, *arguments])))


def test_the_command_says_what_it_chose_and_names_the_folder_after_the_student(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = run(runner, "--dreams", dreams.path, "--student", ANOTHER, "--steps", 4)

    assert result.exit_code == 0, result.output
    assert (tmp_path / f"dreams-{ANOTHER}" / "student.safetensors").exists()
    assert (
        "--student resnet8_b starts from random weights: took --sparsity 0, --lr 0.1"
        in result.stderr
    )
    assert "resnet8_b: 0 % of" in result.stdout
    assert "untaught" in result.stdout
    assert "repaired" not in result.stdout


@pytest.mark.parametrize(("rank", "says"), [("0", True), ("1", False)])
def test_of_a_launchers_processes_one_says_what_the_student_chose(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, rank: str, *, says: bool
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)  # so that it ends where the others would be met
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")

    result = run(runner, "--dreams", "d.h5", "--student", ANOTHER)

    assert result.exit_code == 2
    assert "MASTER_ADDR" in result.stderr
    assert ("starts from random weights" in result.stderr) == says


@pytest.mark.usefixtures("factories")
def test_a_factory_without_batch_norm_is_taught_and_judged_when_named(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path
) -> None:
    out, name = tmp_path / "out", "somebodys:plain"
    taught = run(
        runner, "--dreams", dreams.path, "--student", name, "--steps", 4, "--out", out, "--json"
    )
    assert json.loads(taught.stdout)["config"]["student"] == name
    judge = ["eval", str(out), "--dreams", str(dreams.path), "--device", "cpu", "--json"]

    refused, judged = runner.invoke(main, judge), runner.invoke(main, [*judge, "--student", name])

    assert refused.exit_code == 4
    assert f"pass --student {name}" in refused.stderr
    assert json.loads(judged.stdout)["num_dreams"] == 12


def test_a_sweep_prunes_another_student_and_keeps_what_is_finished(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "--dreams", str(dreams.path), "--student", ANOTHER, "--sparsity", "0,0.5"]
    words += ["--steps", "2", "--batch-size", "16", "--device", "cpu", "--json"]

    first, again = runner.invoke(main, words), runner.invoke(main, words)

    assert first.exit_code == 0, first.output
    kept = [report["num_kept"] / report["num_weights"] for report in json.loads(first.stdout)]
    assert kept == [1, 0.5]
    assert (tmp_path / f"dreams-{ANOTHER}-sweep" / "s0.5").is_dir()
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert "distill:" not in again.stderr


def test_a_dry_run_shows_the_student(runner: CliRunner, dreams: DreamSet, tmp_path: Path) -> None:
    result = run(
        runner,
        *("--dreams", dreams.path, "--student", ANOTHER, "--dry-run", "--out", tmp_path / "o"),
    )

    assert "resnet8, 4 classes, 3x8x8" in result.stdout
    assert "resnet8_b" in result.stdout
    assert "10,000 of 16 images" in result.stdout


def test_pruning_alone_has_no_other_student(runner: CliRunner, dreams: DreamSet) -> None:
    result = runner.invoke(main, ["prune", "--dreams", str(dreams.path), "--student", ANOTHER])

    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_the_teachers_images_are_the_ones_that_count(tiny_teacher: Teacher) -> None:
    assert tiny_teacher.spec.image_shape == IMAGE_SHAPE
    network = random_network("resnet8_b", tiny_teacher.spec, 0)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == IMAGE_SHAPE[0]


@pytest.mark.parametrize("config", [[], {"seed": []}, {"holdout": "0.1"}], ids=str)
def test_a_student_with_a_damaged_record_is_one_line(
    tiny_teacher: Teacher, tmp_path: Path, config: object
) -> None:
    path = tmp_path / "student.safetensors"
    record = {**tiny_teacher.spec.to_json(), "recover": {"config": config}}
    save_network(path, tiny_teacher.network, record)

    with pytest.raises(CheckpointError, match="damaged, or no student of recover"):
        load_student(path)
