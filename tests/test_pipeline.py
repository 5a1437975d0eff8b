import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from conftest import blobs
from dreamset_fixtures import tiny_spec, write_dream_set
from recover_fixtures import blob_dreams, quick_config

from recover.config import RecoverConfig
from recover.export import load_student
from recover.folder import RunFolder
from recover.holdout import split_rows
from recover.importance import prunable_weights
from recover.pipeline import recover_student
from recover.plan import plan_recovery
from recover.preparation import prepare
from recover.report import RecoveryReport
from shared.checkpoint import load_checkpoint, save_network
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import CheckpointError, ConfigError, IncompatibleError
from shared.evaldata import EvalData
from shared.progress import Progress
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return blob_dreams(tmp_path_factory.mktemp("dreams"), tiny_teacher)


def real_images(num_images: int = 100) -> EvalData:
    images, labels = blobs(num_images, seed=9)
    return EvalData(images=images, labels=labels)


def stop_at(step: int) -> Callable[[Progress], None]:
    """A progress callback that kills the run like an exception out of nowhere."""

    def progress(report: Progress) -> None:
        if report.stage == "distill" and report.done >= step:
            raise RuntimeError("killed")

    return progress


@pytest.fixture
def report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)


def test_the_pruned_student_falls_and_the_recovered_one_comes_back(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = quick_config(sparsity=0.9, steps=80, lr=0.02)

    report = recover_student(config, tiny_teacher, dreams, real_images(), tmp_path / "out")

    assert report.teacher.agreement == report.teacher.agreement_on_dreams == 1
    assert report.teacher.accuracy is not None
    assert report.recovered.accuracy is not None
    assert report.recovered.agreement is not None
    assert report.pruned.agreement is not None
    assert report.teacher.accuracy > 0.95
    assert report.pruned.agreement < 0.8
    assert report.recovered.agreement > 0.95
    assert report.recovered.accuracy > 0.9


def test_the_report_says_what_programs_ask_for(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    report = recover_student(quick_config(), tiny_teacher, dreams, None, out, command="x")

    record = json.loads((out / "report.json").read_text())
    assert record == json.loads(json.dumps(report.to_json()))
    assert {"sparsity", "teacher", "pruned", "repaired", "recovered", "seconds", "out"} <= {*record}
    assert record["teacher"]["accuracy"] is None
    assert record["recovered"]["agreement"] == record["recovered"]["agreement_on_dreams"]
    assert record["num_kept"] == sum(layer["kept"] for layer in record["layers"])
    assert record["num_kept"] == round(0.2 * record["num_weights"])
    assert record["recovered"]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert record["provenance"]["command"] == "x"
    assert record["provenance"]["dreams"]["num_held_out"] == 12
    assert not (out / "checkpoint.pt").exists()


def test_the_zero_count_of_the_saved_student_is_exact(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = quick_config(weight_decay=0.1)

    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "out")

    saved = safetensors.torch.load_file(tmp_path / "out" / "student.safetensors")
    assert saved.keys() == tiny_teacher.network.state_dict().keys()
    names = prunable_weights(tiny_teacher.network)
    assert sum(int(saved[name].count_nonzero()) for name in names) == report.num_kept


@pytest.mark.parametrize(
    ("repair", "reconstruct"), [("batch-norm", "none"), ("matched", "least-squares")]
)
def test_at_sparsity_zero_the_pruned_student_is_the_teacher(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, repair: str, reconstruct: str
) -> None:
    config = quick_config(sparsity=0.0, steps=0, repair=repair, reconstruct=reconstruct)

    report = recover_student(config, tiny_teacher, dreams, real_images(), tmp_path / "out")

    assert report.pruned == report.repaired == report.recovered == report.teacher
    student = load_student(tmp_path / "out" / "student.safetensors")
    assert student.classifier.spec.fingerprint == tiny_teacher.spec.fingerprint


def test_the_teacher_is_unchanged(tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path) -> None:
    before = fingerprint(tiny_teacher.network)

    recover_student(quick_config(), tiny_teacher, dreams, None, tmp_path / "out")

    assert fingerprint(tiny_teacher.network) == before
    assert not any(weight.requires_grad for weight in tiny_teacher.network.parameters())
    modules = list(tiny_teacher.network.modules())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in modules)


@pytest.mark.parametrize("changes", [{}, {"schedule": "one-shot"}], ids=str)
@pytest.mark.usefixtures("report_every_step")
def test_a_killed_and_resumed_run_is_bit_for_bit_an_uninterrupted_one(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = quick_config(
        **changes, mix="cutmix", flip=True, weight_decay=0.1, checkpoint_every=1e-9
    )
    real = real_images(20)
    whole = recover_student(config, tiny_teacher, dreams, real, tmp_path / "whole")

    for step in (3, 7, 12):
        with pytest.raises(RuntimeError, match="killed"):
            recover_student(config, tiny_teacher, dreams, real, tmp_path / "parts", stop_at(step))
        assert (tmp_path / "parts" / "checkpoint.pt").exists()
    parts = recover_student(config, tiny_teacher, dreams, real, tmp_path / "parts")

    for name in ("student.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert parts.recovered == whole.recovered
    assert parts.repaired == whole.repaired


@pytest.mark.usefixtures("report_every_step")
def test_an_unfinished_run_of_other_arguments_is_refused(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = quick_config(checkpoint_every=1e-9)
    with pytest.raises(RuntimeError):
        recover_student(config, tiny_teacher, dreams, None, tmp_path, stop_at(5))

    other = quick_config(lr=0.01)
    with pytest.raises(IncompatibleError, match=r"--lr 0\.05 \(now 0\.01\).*--overwrite"):
        recover_student(other, tiny_teacher, dreams, None, tmp_path)
    recover_student(other, tiny_teacher, dreams, None, tmp_path, overwrite=True)


def test_a_finished_run_is_not_overwritten_unasked(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(ConfigError, match="holds a finished run"):
        recover_student(quick_config(), tiny_teacher, dreams, None, tmp_path)
    recover_student(quick_config(), tiny_teacher, dreams, None, tmp_path, overwrite=True)

    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "report.json").read_text())["num_kept"] > 0


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"rubbish")

    with pytest.raises(CheckpointError), RunFolder(tmp_path, {}).begin(overwrite=False):
        pass


def test_dreams_of_another_teacher_are_refused_unless_allowed(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    stranger = copy.deepcopy(tiny_teacher.spec.to_json()) | {"fingerprint": "0" * 64}
    spec = TeacherSpec.from_json(stranger)
    dreams = DreamSet.open(write_dream_set(tmp_path, spec=spec))

    with pytest.raises(IncompatibleError, match="--allow-teacher-mismatch"):
        prepare(quick_config(), tiny_teacher, dreams)
    setup = prepare(quick_config(), tiny_teacher, dreams, allow_teacher_mismatch=True)

    assert "fingerprint 000000000000" in setup.warnings[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (3, 16, 16)}, r"images of shape \(3, 16, 16\)"),
        ({"num_classes": 5, "class_names": None}, "number of classes 5"),
    ],
)
def test_dreams_of_other_images_or_classes_are_refused(
    tiny_teacher: Teacher, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    dreams = DreamSet.open(write_dream_set(tmp_path, spec=tiny_spec(**changes)))

    with pytest.raises(IncompatibleError, match=message):
        prepare(quick_config(), tiny_teacher, dreams, allow_teacher_mismatch=True)


def test_few_dreams_and_missing_classes_are_remarked(tiny_teacher: Teacher, tmp_path: Path) -> None:
    everything = blob_dreams(tmp_path / "all", tiny_teacher, 64).read(0, 64)
    few = everything.select(everything.labels != 2).select(slice(0, 12))
    path = write_dream_set(tmp_path, dreams=few, spec=tiny_teacher.spec)

    warnings = prepare(quick_config(), tiny_teacher, DreamSet.open(path)).warnings

    assert "fewer than --batch-size 16" in warnings[-2]
    assert "1 of 4 classes have no dream" in warnings[-1]
    # Without a step there is no batch.
    untaught = prepare(quick_config(steps=0), tiny_teacher, DreamSet.open(path)).warnings
    assert not any("batch" in warning for warning in untaught)


def test_a_single_dream_is_too_few(tiny_teacher: Teacher, tmp_path: Path) -> None:
    one: DreamBatch = blob_dreams(tmp_path / "all", tiny_teacher, 64).read(0, 1)
    path = write_dream_set(tmp_path, num_shards=1, dreams=one, spec=tiny_teacher.spec)

    with pytest.raises(IncompatibleError, match="expected at least 2"):
        prepare(quick_config(), tiny_teacher, DreamSet.open(path))


def test_a_sparsity_that_empties_layers_is_warned_about(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    report = recover_student(
        quick_config(sparsity=0.9999, steps=2), tiny_teacher, dreams, None, tmp_path / "out"
    )

    assert "the sparsity is too high" in report.warnings[-1]
    assert report.num_kept == round(1e-4 * report.num_weights)
    assert report.recovered.agreement is not None


def test_final_repair_keeps_the_better_student(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    plain = recover_student(quick_config(), tiny_teacher, dreams, None, tmp_path / "plain")
    final = recover_student(
        quick_config(final_repair=True), tiny_teacher, dreams, None, tmp_path / "final"
    )

    assert final.recovered.agreement is not None
    assert plain.recovered.agreement is not None
    assert final.recovered.agreement >= plain.recovered.agreement


def test_without_held_out_dreams_and_real_images_nothing_is_claimed(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    report: RecoveryReport = recover_student(
        quick_config(holdout=0.0), tiny_teacher, dreams, None, tmp_path / "out"
    )

    assert report.recovered.agreement is None
    assert report.recovered.accuracy is None


def test_what_makes_the_figures_doubtful_is_in_the_report(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = quick_config(sparsity=0.5, steps=2, lr=50.0, repair_images=64)
    real = dataclasses.replace(real_images(), remarks=("the order is assumed",))

    report = recover_student(config, tiny_teacher, dreams, real, tmp_path / "out")

    assert any("only 12 dreams are held out" in text for text in report.warnings)
    assert any(
        "distilling made the student of 50 % sparsity worse" in text for text in report.warnings
    )
    assert "the order is assumed" in report.warnings


def test_the_report_says_whether_the_dreams_are_synthetic(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    imported = blob_dreams(tmp_path / "real", tiny_teacher, provenance={"synthetic": False})

    for number, (images, synthetic) in enumerate([(dreams, True), (imported, False)]):
        report = recover_student(
            quick_config(steps=1), tiny_teacher, images, None, tmp_path / str(number)
        )
        assert report.provenance["dreams"]["synthetic"] is synthetic


def test_a_student_reloads_into_the_plain_torchvision_class(
    tmp_path: Path,
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    spec = tiny_spec(
        architecture="shufflenet_v2_x0_5", image_shape=(3, 32, 32), fingerprint=fingerprint(network)
    )
    teacher = Teacher(network=network, spec=spec)
    dreams = DreamSet.open(write_dream_set(tmp_path, spec=spec))
    config = quick_config(steps=2, batch_size=4, repair_images=8)

    recover_student(config, teacher, dreams, None, tmp_path / "out")

    state = safetensors.torch.load_file(tmp_path / "out" / "student.safetensors")
    plain = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    plain.load_state_dict(state)
    ours = load_student(tmp_path / "out" / "student.safetensors").classifier
    images = dreams.read(0, 4).images
    with torch.no_grad():
        logits = plain.eval()(ours.normalize(images / 255))
    torch.testing.assert_close(logits, ours.logits(images), rtol=1e-4, atol=1e-4)


def test_the_metadata_tell_how_the_student_came_to_be(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    report = recover_student(quick_config(), tiny_teacher, dreams, None, tmp_path / "out")

    metadata = load_checkpoint(tmp_path / "out" / "student.safetensors").metadata
    assert metadata["architecture"] == "resnet8"
    assert metadata["mean"] == [0.5, 0.5, 0.5]
    assert metadata["recover"]["sparsity"] == 0.8
    assert metadata["recover"]["num_kept"] == report.num_kept
    assert metadata["recover"]["teacher_fingerprint"] == tiny_teacher.spec.fingerprint
    assert metadata["recover"]["dreams_digest"] == dreams.manifest.digest()
    assert metadata["recover"]["config"]["lr"] == 0.05


def test_a_checkpoint_that_is_no_student_is_named_as_such(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    path = tmp_path / "teacher.safetensors"
    save_network(path, tiny_teacher.network, tiny_teacher.spec.to_json())

    with pytest.raises(IncompatibleError, match=r"no student of recover"):
        load_student(path)


def test_the_plan_is_what_the_run_then_does(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = quick_config(steps=3)

    plan = plan_recovery(prepare(config, tiny_teacher, dreams))
    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "out")

    assert (plan.num_weights, plan.num_kept) == (report.num_weights, report.num_kept)
    assert plan.seconds == pytest.approx(3 * plan.seconds_per_step)
    assert plan.num_train + plan.num_held_out == 128
    assert fingerprint(tiny_teacher.network) == tiny_teacher.spec.fingerprint


@pytest.mark.parametrize(("num_rows", "fraction"), [(1000, 0.1), (40, 0.5), (37, 0.3)])
def test_every_class_gives_its_share_of_the_held_out_rows(num_rows: int, fraction: float) -> None:
    labels = torch.arange(num_rows) % 4

    split = split_rows(labels, fraction, seed=0)

    assert torch.equal(
        torch.cat([split.train, split.held_out]).sort().values, torch.arange(num_rows)
    )
    assert len(split.held_out) == int(num_rows * fraction)
    shares = labels[split.held_out].bincount(minlength=4) / labels.bincount()
    assert (shares - fraction).abs().max() < 0.1


def test_the_split_is_a_function_of_the_seed_and_takes_no_classs_only_row() -> None:
    labels = torch.tensor([0, 1, 2, 3] + [4] * 16)

    same = [split_rows(labels, 0.5, seed=1).held_out for _ in range(2)]

    assert torch.equal(*same)
    assert not torch.equal(same[0], split_rows(labels, 0.5, seed=2).held_out)
    assert same[0].min() >= 4
    assert len(split_rows(labels, 0.0, seed=1).held_out) == 0


def test_configs_are_recorded_as_resolved(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config: RecoverConfig = quick_config(shift=None, steps=1)

    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "out")

    assert report.config["shift"] == 1
