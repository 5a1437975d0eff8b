"""Whatever a command with ``--overwrite`` is stopped by, a whole set is there, old or new."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dreamset_fixtures import tiny_dreams, write_dream_set, write_packed_set
from killing import Killed, kill_at

from dreamforge import merge as merging
from dreamforge.forge import synthesize
from dreamforge.overwrite import shards_at
from dreamforge.pack import pack, unpack
from dreamforge.replacing import finish_replacing, new_set
from dreamforge.verify import verify
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamforgeError, DreamSetError, IncompatibleError
from shared.files import next_of


def write_old(folder: Path, num_shards: int) -> Path:
    """A set of as many shards at ``dreams.h5``, packed where there are none."""
    folder.mkdir(exist_ok=True)
    if num_shards:
        return write_dream_set(folder, num_shards=num_shards)
    return write_packed_set(folder).rename(folder / "dreams.h5")


def replace(source: Path, out: Path, num_shards: int) -> None:
    if num_shards:
        unpack(source, out, shard_size=24 // num_shards, overwrite=True)
    else:
        pack(source, out, overwrite=True)


def digest_of(index: Path) -> str:
    dreams = DreamSet.open(index)
    dreams.read(0, 24)  # every shard is there, and the index's
    return dreams.manifest.digest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (1, 0), (0, 1)])
def test_a_process_that_is_killed_leaves_the_old_set_or_the_new_one(
    tmp_path: Path, before: int, after: int
) -> None:
    new = tiny_dreams(seed=1)
    source = write_dream_set(tmp_path, name="source.h5", num_shards=1, dreams=new)
    old, fresh = write_old(tmp_path / "old", before), tmp_path / "new" / "dreams.h5"
    replace(source, fresh, after)
    which = {digest_of(old): "old", digest_of(fresh): "new"}
    found, number, done = [], 0, False
    while not done:
        out = shutil.copytree(old.parent, tmp_path / str(number)) / old.name
        with pytest.MonkeyPatch.context() as patch:
            kill_at(number, patch)
            try:
                replace(source, out, after)
                done = True
            except Killed:
                pass
        if out.exists():
            found.append(which[digest_of(out)])
        else:
            found.append("moving")
            with pytest.raises(DreamSetError, match="repeat the command that made it"):
                DreamSet.open(out)
        was_whole = next_of(out).exists()
        finish_replacing(out)
        assert which[digest_of(out)] == ("new" if was_whole else found[-1])
        replace(source, out, after)
        assert names(out.parent) == names(fresh.parent)
        number += 1
    assert found == sorted(found, key=["old", "moving", "new"].index)
    assert {found[0], found[-1]} == {"old", "new"}
    assert ("moving" in found) == (before == after)  # names of shards are the same


def test_a_full_disk_leaves_the_old_set_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_dream_set(tmp_path, name="source.h5", dreams=tiny_dreams(seed=1))
    out = write_old(tmp_path / "there", 2)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "00001" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DreamforgeError, match=r"there/dreams-00001-of-00003\.h5: cannot be writ"):
        unpack(source, out, shard_size=8, overwrite=True)

    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


def test_what_came_while_the_new_set_was_written_stays(tmp_path: Path) -> None:
    out = tmp_path / "dreams.h5"

    def late() -> None:
        with new_set(out, overwrite=False) as place:
            write_dream_set(place.parent)
            out.write_bytes(b"somebody else's")

    with pytest.raises(ConfigError, match="is there already"):
        late()

    assert names(tmp_path) == [out.name]
    assert out.read_bytes() == b"somebody else's"


def test_of_two_that_make_one_set_the_second_is_refused(tmp_path: Path) -> None:
    source = write_dream_set(tmp_path, name="source.h5", dreams=tiny_dreams(seed=1))
    out = write_old(tmp_path / "there", 2)
    digest = digest_of(out)
    with new_set(out, overwrite=True) as place:
        with pytest.raises(DreamforgeError, match=r"dreams\.h5: another process is making a set"):
            unpack(source, out, shard_size=12, overwrite=True)
        assert digest_of(out) == digest
        digest = digest_of(write_dream_set(place.parent, dreams=tiny_dreams(seed=2)))

    assert digest_of(out) == digest
    assert names(out.parent) == sorted([out.name, *(path.name for path in shards_at(out))])


def test_an_empty_folder_that_waited_removes_nothing_of_another_set(tmp_path: Path) -> None:
    """A kill just before the end left it; then a set came whose shards are called alike."""
    source = write_dream_set(tmp_path, name="source.h5", dreams=tiny_dreams(seed=1))
    out, other = tmp_path / "there" / "dreams.h5", tmp_path / "there" / "dreams.hdf5"
    pack(source, out)
    unpack(source, other, shard_size=12)
    next_of(out).mkdir()

    with pytest.raises(ConfigError, match=r"belongs to dreams\.hdf5"):
        pack(source, out)

    assert verify(other).fine


@pytest.mark.parametrize("kind", ["another set", "damaged", "no index"])
def test_a_folder_that_only_seems_to_wait_replaces_nothing(tmp_path: Path, kind: str) -> None:
    out, other = write_old(tmp_path, 2), write_dream_set(tmp_path, name="other.h5")
    folder = next_of(out)
    folder.mkdir()
    if kind == "another set":
        write_dream_set(folder, name="other.h5").rename(folder / out.name)
    elif kind == "damaged":
        (folder / out.name).write_bytes(b"no set")
    else:
        (folder / "dreams-00000-of-00002.h5").write_bytes(b"no set")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.h5")}

    with pytest.raises(DreamSetError, match="remove"):
        finish_replacing(out)

    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.h5")} == before
    assert verify(other).fine


def test_synth_finishes_what_a_conversion_began(
    tiny_teacher: Any, tiny_config: Any, tmp_path: Path
) -> None:
    out = write_old(tmp_path, 2)
    next_of(out).mkdir()
    new = write_dream_set(next_of(out), dreams=tiny_dreams(seed=1), num_shards=3)
    digest = digest_of(new)

    with pytest.raises(IncompatibleError, match="begun with other arguments"):
        synthesize(tiny_teacher, tiny_config, out, torch.device("cpu"))

    assert digest_of(out) == digest
    assert len(shards_at(out)) == 3
    assert not next_of(out).exists()


def test_what_a_killed_merge_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [
        write_dream_set(tmp_path, name=f"{seed}.h5", dreams=tiny_dreams(seed=seed))
        for seed in (1, 2)
    ]
    out = tmp_path / "out" / "dreams.h5"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(1, patch)
        with pytest.raises(Killed):
            merging.merge(sources, out)
    (left,) = out.parent.glob("*.tmp")
    monkeypatch.setattr("shared.files._is_running", lambda process: False)
    merging.merge(sources, out)

    assert left.name.endswith(".tmp")
    assert names(out.parent) == ["dreams-00000-of-00001.h5", "dreams.h5"]


def test_a_link_where_the_new_set_is_to_wait_is_not_followed(tmp_path: Path) -> None:
    source, out = write_old(tmp_path / "new", 2), write_old(tmp_path / "old", 1)
    elsewhere = write_old(tmp_path / "elsewhere", 1).parent
    next_of(out).symlink_to(elsewhere)

    replace(source, out, 2)

    assert digest_of(out)
    assert names(out.parent) == names(source.parent)
    assert names(elsewhere) == ["dreams-00000-of-00001.h5", "dreams.h5"]
