"""A run with ``--overwrite``: the finished one stays until the new one is finished."""

import errno
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from killing import Killed, kill_at
from recover_fixtures import blob_dreams, quick_config, self_contained_dreams

from recover.cli import main
from recover.finished import finished_report
from recover.folder import RunFolder
from recover.lock import LOCK_NAME, alone_in
from recover.next_run import NEXT_NAME
from recover.oneshot import prune_student
from recover.pipeline import recover_student
from recover.results import find_results, read_report
from shared.errors import ConfigError, IncompatibleError
from shared.files import write_json
from shared.progress import Progress
from shared.teacher import Teacher


def finish(path: Path, text: str, *, overwrite: bool, with_budget: bool = False) -> None:
    """A run whose files hold no more than a text."""
    folder = RunFolder(path, {"--text": text})
    with folder.begin(overwrite=overwrite):
        if with_budget:
            folder.budget.write_text(text)
        folder.metrics.write_text(text)
        folder.student.write_text(text)
        write_json(folder.report, text)
        folder.finish()


def contents(path: Path) -> dict[str, str]:
    return {file.name: file.read_text().strip('"\n') for file in path.iterdir() if file.is_file()}


def shown(path: Path) -> str:
    return str(json.loads(RunFolder.to_read(path).report.read_text()))


OLD = dict.fromkeys(("budget.json", "metrics.jsonl", "report.json", "student.safetensors"), "old")
NEW = dict.fromkeys(("metrics.jsonl", "report.json", "student.safetensors"), "new")


def test_a_run_that_is_killed_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    found, number, done = [], 0, False
    while not done:
        path = tmp_path / str(number)
        finish(path, "old", overwrite=False, with_budget=True)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(number, patch)
            try:
                finish(path, "new", overwrite=True)
                done = True
            except Killed:
                pass

        found.append(shown(path))
        read = RunFolder.to_read(path)
        assert {read.student.read_text(), read.metrics.read_text()} == {found[-1]}
        assert read.budget.exists() == (found[-1] == "old")
        if found[-1] == "old":
            assert contents(path).items() >= OLD.items()
        if not RunFolder(path, {}).is_finished:
            finish(path, "new", overwrite=False)
        elif found[-1] == "old":  # nothing had begun
            finish(path, "new", overwrite=True)
        RunFolder(path, {}).tidy()
        assert contents(path) == NEW
        number += 1
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}


def test_an_error_before_the_first_checkpoint_leaves_the_finished_run(tmp_path: Path) -> None:
    finish(tmp_path, "old", overwrite=False, with_budget=True)

    def fail() -> None:
        with RunFolder(tmp_path, {}).begin(overwrite=True):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()

    assert RunFolder(tmp_path, {}).is_finished
    assert not (tmp_path / NEXT_NAME).exists()
    assert contents(tmp_path) == {**OLD, ".recover.lock": ""}


@pytest.mark.parametrize(
    "where", ["next_run.write_json", "journal.Journal.add", "folder.write_state"]
)
def test_a_full_disk_before_the_first_checkpoint_loses_nothing(
    runner: CliRunner,
    tiny_teacher: Teacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    dreams, out = self_contained_dreams(tmp_path / "dreams", tiny_teacher), tmp_path / "out"
    run = ["run", "--dreams", str(dreams.path), "--out", str(out), "--device", "cpu"]
    run += ["--batch-size", "16", "--repair-images", "0", "--checkpoint-every"]
    run += ["1e-9" if "state" in where else "99"]
    prune_student(quick_config(sparsity=0.5), tiny_teacher, dreams, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(out / "x"))

    with monkeypatch.context() as patch:
        patch.setattr(f"recover.{where}", full)
        stopped = runner.invoke(main, [*run, "--steps", "2", "--overwrite"])
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.name != LOCK_NAME}
    again = runner.invoke(main, [*run, "--steps", "2", "--overwrite"])

    assert stopped.exit_code == 1
    errors = [line for line in stopped.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert after == before
    assert again.exit_code == 0, again.output
    assert json.loads((out / "report.json").read_text())["config"]["steps"] == 2


def test_an_error_while_going_on_leaves_what_was_begun(tmp_path: Path) -> None:
    finish(tmp_path, "old", overwrite=False)
    RunFolder(tmp_path, {"--text": "new"}).promise({"steps": 5})

    def fail() -> None:
        with RunFolder(tmp_path, {"--text": "new"}).begin(overwrite=False):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()

    with pytest.raises(IncompatibleError, match=r"--text new \(now other\)"):
        finish(tmp_path, "other", overwrite=False)
    assert json.loads(RunFolder(tmp_path, {}).budget.read_text()) == {"steps": 5}
    assert shown(tmp_path) == "old"
    RunFolder(tmp_path, {}).withdraw()
    assert contents(tmp_path).keys() == NEW.keys()
    assert set(contents(tmp_path).values()) == {"old"}


def test_a_place_without_arguments_was_not_begun(tmp_path: Path) -> None:
    finish(tmp_path, "old", overwrite=False)
    (tmp_path / NEXT_NAME).mkdir()
    (tmp_path / NEXT_NAME / "arguments.json").write_text("{}")

    with pytest.raises(ConfigError, match="holds a finished run"):
        finish(tmp_path, "other", overwrite=False)
    finish(tmp_path, "new", overwrite=True)
    assert contents(tmp_path) == NEW


def test_nobody_moves_what_another_process_is_moving(tmp_path: Path) -> None:
    finish(tmp_path, "old", overwrite=False)
    folder = RunFolder(tmp_path, {"--text": "new"})
    with folder.begin(overwrite=True):
        for file in (folder.metrics, folder.student):
            file.write_text("new")
        write_json(folder.report, "new")
        RunFolder(tmp_path, {}).tidy()
        assert folder.report.exists()
        assert contents(tmp_path)["student.safetensors"] == "old"
        folder.finish()

    assert contents(tmp_path) == NEW


def test_what_was_begun_in_the_place_of_a_run_is_gone_on_with_by_its_own_arguments(
    tmp_path: Path,
) -> None:
    finish(tmp_path, "old", overwrite=False)

    def interrupt() -> None:
        with RunFolder(tmp_path, {"--text": "new"}).begin(overwrite=True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()

    assert not RunFolder(tmp_path, {}).is_finished
    assert shown(tmp_path) == "old"
    with pytest.raises(IncompatibleError, match=r"--text new \(now other\)"):
        finish(tmp_path, "other", overwrite=False)
    finish(tmp_path, "new", overwrite=False)
    assert contents(tmp_path) == NEW


def test_a_run_in_the_place_of_another_goes_on_where_it_was_stopped(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    dreams = blob_dreams(tmp_path / "dreams", tiny_teacher)
    out, config = tmp_path / "out", quick_config(checkpoint_every=1e-9)
    old = prune_student(quick_config(sparsity=0.5), tiny_teacher, dreams, out)

    def stop(progress: Progress) -> None:
        if progress.stage == "distill" and progress.done >= 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        recover_student(config, tiny_teacher, dreams, None, out, stop, overwrite=True)

    (result,), remarks = find_results([out])
    assert result.report == old == read_report(out)
    assert remarks == [f"{out}: the run that is to replace this one is not finished"]
    assert (out / NEXT_NAME / "checkpoint.pt").exists()
    with pytest.raises(IncompatibleError, match=r"--lr 0\.05 \(now 0\.2\)"):
        recover_student(quick_config(lr=0.2), tiny_teacher, dreams, None, out)
    whole = recover_student(config, tiny_teacher, dreams, None, tmp_path / "whole")
    parts = recover_student(config, tiny_teacher, dreams, None, out)
    assert parts.recovered == whole.recovered
    assert finished_report(config, tiny_teacher, dreams, None, out).recovered == whole.recovered
    with pytest.raises(IncompatibleError, match="holds a finished run"):
        finished_report(quick_config(lr=0.2), tiny_teacher, dreams, None, out)
    for name in ("student.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (out / NEXT_NAME).exists()


def test_a_link_in_the_place_of_the_next_run_is_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "run", tmp_path / "other"
    finish(path, "old", overwrite=False)
    finish(other, "other", overwrite=False)
    (path / NEXT_NAME).symlink_to(other)

    finish(path, "new", overwrite=True)

    assert contents(path) == NEW
    assert contents(other) == dict.fromkeys(NEW, "other")


def test_a_run_that_is_killed_while_it_begins_has_begun_with_its_budget(tmp_path: Path) -> None:
    found, number, done = [], 0, False
    while not done:
        path = tmp_path / str(number)
        finish(path, "old", overwrite=False)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(number, patch)
            try:
                RunFolder(path, {"--text": "new"}).promise({"steps": 5})
                done = True
            except Killed:
                pass
        folder = RunFolder(path, {})
        found.append(folder.is_replacing)
        assert folder.budget.exists() == folder.is_replacing
        number += 1
    assert found == sorted(found)
    assert set(found) == {False, True}


def test_what_a_killed_process_left_of_its_place_goes(tmp_path: Path) -> None:
    finish(tmp_path, "old", overwrite=False)
    (tmp_path / NEXT_NAME).mkdir()
    with alone_in(tmp_path):  # of a process that is at work
        RunFolder(tmp_path, {}).tidy()
        assert {NEXT_NAME, LOCK_NAME} <= {path.name for path in tmp_path.iterdir()}

    RunFolder(tmp_path, {}).tidy()
    assert {path.name for path in tmp_path.iterdir()} == NEW.keys()

    (tmp_path / LOCK_NAME).touch()
    (tmp_path / NEXT_NAME).mkdir()
    (tmp_path / NEXT_NAME / "checkpoint.pt").touch()  # of hours, perhaps
    RunFolder(tmp_path, {}).tidy()
    assert {path.name for path in tmp_path.iterdir()} == {*NEW, NEXT_NAME}
