"""What a run may find in its folder, and what it leaves alone."""

import errno
import multiprocessing
import shutil
from pathlib import Path

import pytest
from conftest import blobs
from recover_fixtures import blob_dreams, quick_config

from recover.finished import finished_report
from recover.folder import RunFolder, changed_arguments
from recover.lock import LOCK_NAME, alone_in
from recover.oneshot import prune_student
from recover.pipeline import recover_student
from recover.sweep import plan_levels, run_sweep
from shared.checkpoint import save_network
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamforgeError, IncompatibleError
from shared.evaldata import EvalData
from shared.files import sha256_of
from shared.teacher import Teacher, load_teacher

NOTHING = quick_config(steps=0)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return blob_dreams(tmp_path_factory.mktemp("dreams"), tiny_teacher)


def saved_teacher(teacher: Teacher, folder: Path) -> Teacher:
    """The same teacher, from a file that is called as a student's."""
    folder.mkdir(parents=True)
    path = folder / "student.safetensors"
    save_network(path, teacher.network, teacher.spec.to_json())
    return load_teacher(path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_run_replaces_its_own_teacher(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, overwrite: bool
) -> None:
    out = tmp_path / "s0.8"
    teacher = saved_teacher(tiny_teacher, out)
    before = sha256_of(out / "student.safetensors")

    for images in (dreams, None):
        with pytest.raises(ConfigError, match=r"student\.safetensors is what this run starts from"):
            prune_student(NOTHING, teacher, images, out, overwrite=overwrite)
    with pytest.raises(ConfigError, match="choose another"):
        plan_levels([NOTHING], teacher, dreams, None, tmp_path, overwrite=overwrite)

    assert sha256_of(out / "student.safetensors") == before


def test_no_run_replaces_the_weights_that_its_student_starts_from(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    start = saved_teacher(tiny_teacher, tmp_path / "out").spec.path
    config = quick_config(steps=0, student="resnet8", student_weights=start)

    with pytest.raises(ConfigError, match="what this run starts from"):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("name", ["student.safetensors", "metrics.jsonl"])
def test_what_no_run_made_stays_unless_it_may_go(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")

    for images in (dreams, None):
        with pytest.raises(ConfigError, match=f"found {name} without a report.*--overwrite"):
            prune_student(NOTHING, tiny_teacher, images, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]
    prune_student(NOTHING, tiny_teacher, None, tmp_path, overwrite=True)

    assert (tmp_path / "report.json").exists()


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})

    def killed() -> None:
        with folder.begin(overwrite=False):
            folder.metrics.write_text('{"step": 50}\n')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()

    with folder.begin(overwrite=False) as state:
        assert state is None
        assert not folder.metrics.exists()


def test_a_run_of_an_earlier_version_that_left_rows_alone_starts_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    folder.metrics.write_text('{"step": 50, "loss": 1.5, "sparsity": 0.5, "lr": 0.05}\n')

    with folder.begin(overwrite=False) as state:
        assert state is None
        assert not folder.metrics.exists()


def hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with RunFolder(folder, {}).begin(overwrite=False):
        ready.set()
        multiprocessing.Event().wait()


def test_one_process_at_a_time_and_a_killed_one_is_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready))
    other.start()
    assert ready.wait(60)
    try:
        for overwrite in (False, True):
            with (
                pytest.raises(DreamforgeError, match="another process is at work on it") as found,
                RunFolder(tmp_path, {}).begin(overwrite=overwrite),
            ):
                pass
            assert found.value.exit_code == 1
    finally:
        other.kill()
        other.join()

    with RunFolder(tmp_path, {}).begin(overwrite=False):
        assert (tmp_path / LOCK_NAME).exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_while_it_was_opened_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is done removes the file: who opened it before that has locked nothing."""
    stolen: list[bool] = []

    def flock(stream: object, how: int) -> None:
        if not stolen:
            stolen.append(True)
            (tmp_path / LOCK_NAME).unlink()

    monkeypatch.setattr("fcntl.flock", flock)
    with alone_in(tmp_path):
        assert stolen
        assert (tmp_path / LOCK_NAME).exists()


def test_where_there_are_no_locks_nobody_is_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(stream: object, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass


def test_other_labels_and_other_pixels_are_other_real_images() -> None:
    images, labels = blobs(8)
    data = EvalData(images=images, labels=labels)

    same = EvalData(images=images.clone(), labels=labels.clone(), remarks=("odd",))
    others = [
        EvalData(images=images, labels=labels.flip(0)),
        EvalData(images=images.flip(3), labels=labels),
    ]
    assert data.digest == same.digest
    assert len({data.digest, *(other.digest for other in others)}) == 3
    # Files that are called otherwise come in another order.
    assert EvalData(images=images.flip(0), labels=labels.flip(0)).digest == data.digest


def test_a_finished_run_is_not_that_of_other_real_images(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    images, labels = blobs(12)
    real = EvalData(images=images, labels=labels)
    swapped = EvalData(images=images, labels=(labels + 1) % 4)
    recover_student(NOTHING, tiny_teacher, dreams, real, tmp_path)

    assert finished_report(NOTHING, tiny_teacher, dreams, real, tmp_path).recovered.accuracy
    with pytest.raises(IncompatibleError, match="contents of --eval-data"):
        finished_report(NOTHING, tiny_teacher, dreams, swapped, tmp_path)


def test_a_finished_run_is_not_that_of_other_weights_to_start_from(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    start = saved_teacher(tiny_teacher, tmp_path / "start")
    config = quick_config(steps=0, student="resnet8", student_weights=start.spec.path)
    out = tmp_path / "out"
    recover_student(config, tiny_teacher, dreams, None, out)
    assert finished_report(config, tiny_teacher, dreams, None, out)

    start.network.get_submodule("linear").weight.data.neg_()
    save_network(Path(str(start.spec.path)), start.network, tiny_teacher.spec.to_json())
    with pytest.raises(IncompatibleError, match="contents of --student-weights"):
        finished_report(config, tiny_teacher, dreams, None, out)
    shutil.rmtree(tmp_path / "start")
    assert finished_report(config, tiny_teacher, dreams, None, out)


def test_contents_that_an_earlier_version_did_not_record_are_no_difference() -> None:
    now = {"--lr": 0.1, "contents of --eval-data": "a"}

    assert not changed_arguments({"--lr": 0.1}, now)
    assert not changed_arguments(now, {"--lr": 0.1})
    assert changed_arguments({**now, "contents of --eval-data": "b"}, now)
    assert changed_arguments({}, now) == ["--lr None (now 0.1)"]


def test_what_a_run_that_was_killed_at_the_very_end_left_is_removed(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "s0.8" / "checkpoint.pt"
    recover_student(NOTHING, tiny_teacher, dreams, None, checkpoint.parent)

    checkpoint.write_bytes(b"")
    finished_report(NOTHING, tiny_teacher, dreams, None, checkpoint.parent)
    assert not checkpoint.exists()
    checkpoint.write_bytes(b"")
    plan = plan_levels([NOTHING], tiny_teacher, dreams, None, tmp_path)
    assert checkpoint.exists()  # a plan changes nothing
    assert not run_sweep(plan, tiny_teacher, dreams, None)
    assert not checkpoint.exists()


def test_a_finished_run_where_nothing_can_be_written_is_finished(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recover_student(NOTHING, tiny_teacher, dreams, None, tmp_path)

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert finished_report(NOTHING, tiny_teacher, dreams, None, tmp_path).out == str(tmp_path)


@pytest.mark.parametrize("target", ["nowhere", "out"])
def test_a_link_that_leads_nowhere_is_no_folder(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, target: str
) -> None:
    out = tmp_path / "out"
    out.symlink_to(tmp_path / target)
    (tmp_path / "levels").mkdir()
    (tmp_path / "levels" / "s0.8").symlink_to(out)
    words = "found a symlink that leads nowhere, expected a folder"

    with pytest.raises(ConfigError, match=words):
        prune_student(NOTHING, tiny_teacher, None, out, overwrite=True)
    for folder in (out, out / "below", tmp_path / "levels"):
        with pytest.raises(ConfigError, match=words):
            plan_levels([NOTHING], tiny_teacher, dreams, None, folder)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "levels"}
