"""The folder of an export: filled or exchanged in place, whatever is cut short."""

import errno
from pathlib import Path

import pytest
from dreamset_fixtures import write_dream_set

from dreamforge import export_folder
from dreamforge.export import export
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamforgeError


@pytest.fixture
def dreams(tmp_path: Path) -> DreamSet:
    return DreamSet.open(write_dream_set(tmp_path, num_shards=3))


def test_an_earlier_export_stays_when_the_new_one_fails(
    dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "there"
    export(dreams, out, "imagefolder")
    before = sorted(out.rglob("*"))
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.parent.suffix == ".tmp" and self.name == "manifest.json":  # the last one
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        export(dreams, out, "webdataset", overwrite=True)
    assert sorted(out.rglob("*")) == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("is_empty", [False, True])
def test_of_two_exports_to_one_folder_the_second_is_refused(
    dreams: DreamSet, tmp_path: Path, is_empty: bool
) -> None:
    out = tmp_path / "there"
    out.mkdir()
    if not is_empty:
        export(dreams, out, "imagefolder")
    with export_folder.export_folder(dreams, out, overwrite=not is_empty) as folder:
        (folder / "0-new").mkdir()
        with pytest.raises(DreamforgeError, match="there: another process exports to it"):
            export(dreams, out, "imagefolder", overwrite=not is_empty)

    assert {path.name for path in out.iterdir()} == {"0-new", "manifest.json"}


def refuse_to_leave(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Make a folder a file system of its own."""
    rename = Path.rename

    def across(self: Path, target: Path) -> Path:
        if not (self.is_relative_to(place) and Path(target).is_relative_to(place)) or (
            place in (self, target)
        ):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)


@pytest.mark.parametrize("before", [None, "imagefolder", "webdataset"])
@pytest.mark.parametrize("after", ["imagefolder", "webdataset"])
def test_a_folder_that_is_there_stays_the_same_folder(
    dreams: DreamSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str | None,
    after: str,
) -> None:
    here, alone = tmp_path / "here", tmp_path / "alone"
    here.mkdir()
    export(dreams, alone, after)
    if before is not None:
        export(dreams, here, before)
    identity = here.stat().st_ino
    monkeypatch.chdir(here)
    refuse_to_leave(monkeypatch, here)

    export(dreams, Path(), after, overwrite=before is not None)

    assert here.stat().st_ino == identity
    names = [[path.relative_to(top) for path in sorted(top.rglob("*"))] for top in (here, alone)]
    assert names[0] == names[1]


class Killed(BaseException):
    """Nothing is cleaned up after it, as after SIGKILL."""


def export_until_killed(dreams: DreamSet, out: Path, to: str, renames: int) -> None:
    """Kill an export before the given number of its renamings (the last: of removals)."""
    left, rename = [renames], Path.rename

    def count(self: Path, target: Path) -> Path:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return rename(self, target)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", count)
        patch.setattr(export_folder, "_move_back", die)
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(Killed):
            export(dreams, out, to, overwrite=True)


@pytest.mark.parametrize("renames", range(9))
def test_what_killed_exports_left_is_no_hindrance(
    dreams: DreamSet, tmp_path: Path, renames: int
) -> None:
    out, alone = tmp_path / "there", tmp_path / "alone"
    export(dreams, out, "imagefolder")
    export(dreams, alone, "webdataset")

    for _ in range(2):  # the second leaves what the first has left, too
        export_until_killed(dreams, out, "webdataset", renames)
    assert list(out.glob(".dreams.*"))
    with pytest.raises(ConfigError, match="is there already"):
        export(dreams, out, "webdataset")
    export(dreams, out, "webdataset", overwrite=True)

    assert [path.name for path in sorted(out.iterdir())] == [
        path.name for path in sorted(alone.iterdir())
    ]


def test_a_folder_with_nothing_but_a_begun_export_is_empty(
    dreams: DreamSet, tmp_path: Path
) -> None:
    begun = tmp_path / "there" / ".dreams.7.ab_1.tmp"
    begun.mkdir(parents=True)
    (begun / ".dreams-000000.tar.host.7.tmp").touch()
    (begun / "notes.txt").write_text("precious")

    with pytest.raises(ConfigError, match="is there already"):
        export(dreams, begun.parent, "webdataset")
    (begun / "notes.txt").unlink()
    export(dreams, begun.parent, "webdataset")

    names = {path.name for path in begun.parent.iterdir()}
    assert names == {"manifest.json", "dreams-000000.tar"}


def test_an_empty_folder_is_filled_by_whatever_name(
    dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, linked, link = (tmp_path / name for name in ("here", "linked", "link"))
    here.mkdir()
    linked.mkdir()
    link.symlink_to(linked)
    identity = here.stat().st_ino
    monkeypatch.chdir(here)

    export(dreams, Path(), "webdataset")
    export(dreams, link, "webdataset")

    assert here.stat().st_ino == identity
    assert {path.name for path in here.iterdir()} == {"manifest.json", "dreams-000000.tar"}
    assert link.is_symlink()
    assert {path.name for path in linked.iterdir()} == {"manifest.json", "dreams-000000.tar"}
