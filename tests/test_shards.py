import json
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set

from shared.chunks import SHUFFLE
from shared.dreams import FIELDS, DreamBatch
from shared.errors import DreamforgeError, DreamSetError
from shared.files import sha256_of
from shared.manifest import FORMAT, Manifest
from shared.shardfile import ShardFile
from shared.shards import (
    read_contents,
    read_index,
    read_shard,
    read_shard_attributes,
    read_teacher,
    write_index,
    write_shard,
)
from shared.values import arrays_sha256

ATTRIBUTES = {"shard": 3, "num_shards": 16, "teacher": "ab" * 32, "synthesis": {"b": 1, "a": "ü"}}
COMPRESSION = pytest.mark.parametrize("compression", [False, True], ids=["plain", "gzip"])


def assert_equal(found: DreamBatch, expected: DreamBatch) -> None:
    for name, _, _ in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@COMPRESSION
def test_a_shard_reads_back_as_written(tmp_path: Path, compression: bool) -> None:
    dreams = tiny_dreams(2500)  # more than one chunk

    info = write_shard(tmp_path / "a.h5", dreams, ATTRIBUTES, compression=compression)

    assert_equal(read_shard(tmp_path / "a.h5"), dreams)
    assert info.name == "a.h5"
    assert info.num_images == 2500
    assert info.num_bytes == (tmp_path / "a.h5").stat().st_size
    assert info.sha256 == sha256_of(tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.slow
def test_the_same_dreams_are_the_same_bytes(tmp_path: Path) -> None:
    dreams, path = tiny_dreams(), tmp_path / "a.h5"
    first = [write_shard(path, dreams, ATTRIBUTES, compression=gzip) for gzip in (False, True)]
    time.sleep(1.1)  # HDF5's timestamps are whole seconds
    second = [write_shard(path, dreams, ATTRIBUTES, compression=gzip) for gzip in (False, True)]

    assert first == second
    assert first[0] != first[1]


def test_the_same_manifest_is_the_same_index(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_dream_set(tmp_path / name, teacher=b"weights")

    assert sha256_of(tmp_path / "a/dreams.h5") == sha256_of(tmp_path / "b/dreams.h5")


def test_attributes_explain_a_lone_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", tiny_dreams(), ATTRIBUTES)

    found = read_shard_attributes(tmp_path / "a.h5")

    assert json.loads(str(found.pop("synthesis"))) == {"a": "ü", "b": 1}
    assert found == {
        "format": FORMAT,
        "format_version": 1,
        "shard": 3,
        "num_shards": 16,
        "teacher": "ab" * 32,
    }


@pytest.mark.parametrize(
    ("shape", "chunk_rows"), [((3, 32, 32), 64), ((3, 224, 224), 1), ((1, 8, 8), 70)]
)
def test_chunks_suit_the_size_of_the_images(
    tmp_path: Path, shape: tuple[int, int, int], chunk_rows: int
) -> None:
    write_shard(tmp_path / "a.h5", tiny_dreams(70, image_shape=shape), {})

    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"images", "labels", "logits", "batch", "loss"}
        assert file["images"].chunks == (chunk_rows, *shape)
        assert all(array.fletcher32 for array in file.values())
        assert {len(array) for array in file.values()} == {70}


@COMPRESSION
def test_rows_are_found_wherever_they_lie(tmp_path: Path, compression: bool) -> None:
    dreams = tiny_dreams(2500)
    write_shard(tmp_path / "a.h5", dreams, {}, compression=compression)
    shard = ShardFile(tmp_path / "a.h5")

    for start, stop in ((0, 1), (1023, 1025), (1024, 2048), (5, 2500), (2499, 2500)):
        assert_equal(shard.read(start, stop), dreams.select(slice(start, stop)))
    for rows in ([0], [2499, 0, 2499, 1024, 1023], list(range(2499, -1, -1))):
        assert_equal(shard.select(np.array(rows)), dreams.select(torch.tensor(rows)))
        assert torch.equal(shard.images(np.array(rows)), dreams.images[rows])


def test_bytes_of_equal_significance_are_unshuffled(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", tiny_dreams(50), {}, compression=True)

    tables = read_contents(tmp_path / "a.h5").tables

    assert SHUFFLE in tables["logits"].filters
    assert SHUFFLE not in tables["images"].filters


def test_noise_that_compression_makes_larger_is_read(tmp_path: Path) -> None:
    dreams = tiny_dreams(64, image_shape=(3, 32, 32))  # noise
    write_shard(tmp_path / "a.h5", dreams, {}, compression=True)

    assert read_contents(tmp_path / "a.h5").tables["images"].sizes.max() > 64 * 3072
    assert_equal(read_shard(tmp_path / "a.h5"), dreams)
    assert_equal(ShardFile(tmp_path / "a.h5").read(0, 64), dreams)


def test_impossible_values_are_not_written(tmp_path: Path) -> None:
    for field, value in (("labels", 4), ("labels", -1), ("logits", torch.inf), ("loss", torch.nan)):
        dreams = tiny_dreams()
        getattr(dreams, field)[5] = value
        with pytest.raises(DreamSetError):
            write_shard(tmp_path / "a.h5", dreams, {})

    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DreamforgeError, match=r"a\.h5: cannot be written to \(No such file"):
        write_shard(tmp_path / "nowhere/a.h5", tiny_dreams(), {})


def test_attributes_that_hdf5_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DreamforgeError, match="synthesis"):
        write_shard(tmp_path / "a.h5", tiny_dreams(), {"synthesis": {"text": "x" * 70_000}})
    with pytest.raises(ValueError, match="color"):
        write_shard(tmp_path / "a.h5", tiny_dreams(), {"color": "red"})


def test_the_index_holds_manifest_labels_and_teacher(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path, teacher=b"safetensors" * 1000)

    found = read_index(index)

    assert found.manifest.num_images == 24
    assert found.manifest.teacher == tiny_spec()
    assert torch.equal(found.labels, tiny_dreams().labels)
    assert read_teacher(index) == b"safetensors" * 1000
    assert read_teacher(write_dream_set(tmp_path)) is None


def test_a_manifest_may_be_larger_than_an_attribute(tmp_path: Path) -> None:
    names = tuple(f"class number {i} with a name" for i in range(10_000))
    spec = tiny_spec(num_classes=10_000, class_names=names)

    index = write_dream_set(tmp_path, spec=spec)

    assert read_index(index).manifest.teacher.class_names == names


def test_a_packed_index_holds_the_arrays(tmp_path: Path) -> None:
    dreams = tiny_dreams()
    manifest = Manifest(
        num_images=24, shards=(), teacher=tiny_spec(), arrays_sha256=arrays_sha256(dreams)
    )

    write_index(tmp_path / "packed.h5", manifest, dreams.labels, dreams=dreams)

    assert_equal(read_shard(tmp_path / "packed.h5"), dreams)
    assert read_index(tmp_path / "packed.h5").manifest == manifest
    with pytest.raises(ValueError, match="same set"):
        write_index(tmp_path / "other.h5", manifest, dreams.labels)


def test_a_shard_is_not_an_index(tmp_path: Path) -> None:
    write_dream_set(tmp_path)

    with pytest.raises(DreamSetError, match="is a shard, not the index"):
        read_index(tmp_path / "dreams-00000-of-00002.h5")


def test_an_index_is_not_a_shard(tmp_path: Path) -> None:
    with pytest.raises(DreamSetError, match="has no batch, images"):
        read_shard(write_dream_set(tmp_path))
