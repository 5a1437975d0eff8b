"""``--overwrite`` removes dream sets, and never what a set is made from or anything else."""

import os
from pathlib import Path

import h5py
import pytest
import torch
from click.testing import CliRunner
from dreamset_fixtures import tiny_dreams, write_dream_set, write_packed_set

from dreamforge.cli import main
from dreamforge.forge import synthesize
from dreamforge.overwrite import refuse_inputs, refuse_to_lose
from dreamforge.replacing import new_set, refuse_taken
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.files import sha256_of

QUICK = ["--n", "4", "--batch-size", "4", "--steps", "2", "--device", "cpu"]


@pytest.fixture
def precious(teacher_file: Path, tmp_path: Path) -> Path:
    """A copy of the teacher that a failing test may destroy."""
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(teacher_file.read_bytes())
    return path


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_synth_refuses_to_write_over_its_teacher(
    runner: CliRunner, precious: Path, more: list[str]
) -> None:
    before = sha256_of(precious)
    link = precious.with_name("link.h5")
    link.symlink_to(precious)
    hard = precious.with_name("hard.h5")
    os.link(precious, hard)

    for out in (precious, link, hard, precious.parent / "." / precious.name):
        command = ["synth", "--teacher", str(precious), "--out", str(out), *QUICK, *more]
        result = runner.invoke(main, command)
        assert result.exit_code == 2, result.output
        assert "is what the set is to be made from; choose another --out" in result.stderr
        assert sha256_of(precious) == before


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_import_refuses_to_write_over_its_teacher_and_its_images(
    runner: CliRunner, precious: Path, more: list[str], tmp_path: Path
) -> None:
    image = tmp_path / "real" / "0" / "a.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"not read before")
    before = sha256_of(precious)

    for out in (precious, tmp_path / "real"):
        command = ["import", str(tmp_path / "real"), "--teacher", str(precious), "--out", str(out)]
        result = runner.invoke(main, [*command, "--device", "cpu", *more])
        assert result.exit_code == 2, result.output
        assert "is what the set is to be made from" in result.stderr
    assert sha256_of(precious) == before
    assert image.exists()


def unrelated(folder: Path) -> list[Path]:
    picture, weights, measured = (folder / name for name in ("a.png", "b.pt", "c.h5"))
    picture.write_bytes(b"\x89PNG\r\n\x1a\n a picture")
    torch.save({"a": torch.zeros(2)}, weights)
    with h5py.File(measured, "w") as file:
        file["precious"] = [1, 2, 3]
    return [picture, weights, measured]


def test_files_that_are_no_dream_sets_survive_overwrite(
    tiny_teacher, tiny_config, tmp_path: Path
) -> None:
    for path in unrelated(tmp_path):
        before = sha256_of(path)
        with pytest.raises(ConfigError, match="no dream set, so --overwrite leaves it alone"):
            synthesize(tiny_teacher, tiny_config, path, torch.device("cpu"), overwrite=True)
        with pytest.raises(ConfigError, match="no dream set, so --overwrite leaves it alone"):
            refuse_taken(path, overwrite=True)
        assert sha256_of(path) == before


def test_nothing_is_removed_where_one_file_may_not_be(tmp_path: Path) -> None:
    out = write_dream_set(tmp_path)
    other = tmp_path / "dreams-00001-of-00003.h5"  # called like a shard
    other.write_bytes(b"something else")

    with pytest.raises(ConfigError, match=other.name):
        refuse_taken(out, overwrite=True)
    assert DreamSet.open(out).num_images == 24


def test_folders_and_devices_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder, expected the file of an index"):
        refuse_taken(tmp_path, overwrite=True)
    pipe = tmp_path / "pipe.h5"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="no dream set, so --overwrite leaves it alone"):
        refuse_taken(pipe, overwrite=True)


def test_what_was_a_dream_set_may_go_whole_damaged_or_empty(tmp_path: Path) -> None:
    out = write_dream_set(tmp_path)
    data = out.read_bytes()
    for left in (data, data[: len(data) // 2], b""):
        out.write_bytes(left)
        refuse_to_lose(out, sorted(tmp_path.glob("*-of-*")))
    refuse_to_lose(tmp_path / "nothing.h5", [])


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def conversions(source: Path, out: Path) -> list[list[str]]:
    ends = ["--out", str(out), "--overwrite"]
    return [
        ["unpack", str(source), *ends],
        ["unpack", str(source), *ends, "--shard-size", "8"],
        ["filter", str(source), *ends, "--agree"],
        ["pack", str(source), *ends],
    ]


def test_shards_of_a_renamed_input_survive_overwrite(runner: CliRunner, tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    renamed = index.rename(tmp_path / "full.h5")
    before = contents(tmp_path)

    for command in conversions(renamed, index):
        result = runner.invoke(main, command)
        assert result.exit_code == 2, result.output
        assert "choose another --out" in result.stderr
        assert contents(tmp_path) == before


@pytest.mark.parametrize("linked", [False, True])
def test_an_input_shard_is_no_place_to_write(
    runner: CliRunner, tmp_path: Path, *, linked: bool
) -> None:
    index = write_dream_set(tmp_path)
    target = tmp_path / "dreams-00001-of-00002.h5"
    if linked:
        link = tmp_path / "other" / "name.h5"
        link.parent.mkdir()
        os.link(target, link)
        target = link
    before = [sha256_of(path) for path in sorted(tmp_path.rglob("*.h5"))]

    for command in conversions(index, target):
        result = runner.invoke(main, command)
        assert result.exit_code == 2, result.output
        assert "belongs to one of the sets to read (dreams-00001-of-00002.h5)" in result.stderr
    assert [sha256_of(path) for path in sorted(tmp_path.rglob("*.h5"))] == before


def test_merge_leaves_the_shards_of_its_inputs_alone(runner: CliRunner, tmp_path: Path) -> None:
    a = write_dream_set(tmp_path, name="a.h5")
    b = write_dream_set(tmp_path, name="b.h5", num_shards=1, dreams=tiny_dreams(seed=1))
    before = contents(tmp_path)

    out = str(tmp_path / "b-00000-of-00001.h5")
    result = runner.invoke(main, ["merge", str(a), str(b), "--out", out, "--overwrite"])

    assert result.exit_code == 2, result.output
    assert contents(tmp_path) == before


def test_shards_of_another_index_survive_overwrite(
    runner: CliRunner, tiny_teacher, tiny_config, tmp_path: Path
) -> None:
    index = write_dream_set(tmp_path)
    other = write_packed_set(tmp_path)
    before = contents(tmp_path)

    out = tmp_path / "dreams.hdf5"  # whose shards would be called like those of dreams.h5
    with pytest.raises(ConfigError, match=r"belongs to dreams\.h5, so --overwrite leaves it alone"):
        synthesize(tiny_teacher, tiny_config, out, torch.device("cpu"), overwrite=True)
    for command in conversions(other, out):
        assert runner.invoke(main, command).exit_code == 2
    shard = tmp_path / "dreams-00000-of-00002.h5"
    for command in conversions(other, shard):
        assert runner.invoke(main, command).exit_code == 2
    assert contents(tmp_path) == before
    assert DreamSet.open(index).num_images == 24


def test_a_link_to_the_index_is_no_other_set(tmp_path: Path) -> None:
    out = write_dream_set(tmp_path)
    (tmp_path / "latest.h5").symlink_to(out.name)
    (tmp_path / "newest.h5").symlink_to(tmp_path / "latest.h5")

    with new_set(out, overwrite=True) as place:
        write_packed_set(place.parent).rename(place)

    assert [path.name for path in tmp_path.glob("dreams*")] == [out.name]
    assert DreamSet.open(tmp_path / "newest.h5").manifest.packed


@pytest.mark.parametrize("kind", ["hard link", "copy", "behind both"])
def test_the_same_index_under_another_name_survives_overwrite(tmp_path: Path, kind: str) -> None:
    out = write_dream_set(tmp_path)
    other = tmp_path / "latest.h5"
    if kind == "hard link":
        os.link(out, other)
    elif kind == "copy":
        other.write_bytes(out.read_bytes())
    else:  # the set remains at its place when the link of the name ``out`` goes
        behind = tmp_path / "store" / "index.h5"
        behind.parent.mkdir()
        out.rename(behind)
        out.symlink_to(behind)
        other.symlink_to(behind)

    with pytest.raises(ConfigError, match=r"belongs to latest\.h5, so --overwrite leaves it"):
        refuse_taken(out, overwrite=True)
    assert DreamSet.open(other).num_images == 24


def test_a_packed_set_that_is_called_like_a_shard_survives_overwrite(
    runner: CliRunner, tiny_teacher, tiny_config, tmp_path: Path
) -> None:
    index = write_dream_set(tmp_path)
    write_packed_set(tmp_path).rename(tmp_path / "a-00000-of-00003.h5")
    before = contents(tmp_path)

    out = tmp_path / "a.h5"
    for command in conversions(index, out):
        result = runner.invoke(main, command)
        assert result.exit_code == 2, result.output
        assert "called like a shard of a.h5, but a set of its own" in result.stderr
    with pytest.raises(ConfigError, match="a set of its own"):
        synthesize(tiny_teacher, tiny_config, out, torch.device("cpu"), overwrite=True)
    assert contents(tmp_path) == before


def test_what_else_lies_in_the_folder_is_no_hindrance(tmp_path: Path) -> None:
    out = write_dream_set(tmp_path)
    write_dream_set(tmp_path, name="other.h5")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.h5").mkdir()
    unrelated(tmp_path)

    with new_set(out, overwrite=True) as place:
        write_packed_set(place.parent).rename(place)

    assert [path.name for path in tmp_path.glob("dreams*")] == [out.name]
    assert DreamSet.open(tmp_path / "other.h5").num_images == 24


def test_signs_of_a_pattern_in_a_name_are_letters(tmp_path: Path) -> None:
    write_dream_set(tmp_path, name="ab.h5")

    refuse_taken(tmp_path / "a[b].h5", overwrite=False)

    assert DreamSet.open(tmp_path / "ab.h5").num_images == 24


def test_other_files_beside_the_inputs_may_be_written(tmp_path: Path) -> None:
    refuse_inputs(tmp_path / "dreams.h5", [None, tmp_path / "teacher.pt", str(tmp_path / "real")])
