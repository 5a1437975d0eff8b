import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set, write_packed_set

from shared import dreamset
from shared.dreams import FIELDS, DreamBatch, concatenate
from shared.dreamset import DreamSet
from shared.errors import DreamSetError
from shared.manifest import Manifest
from shared.shards import write_index


def assert_equal(found: DreamBatch, expected: DreamBatch) -> None:
    for name, _, _ in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_dream_set(tmp_path, num_shards=3, teacher=b"blob")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write_packed_set(tmp_path)


@pytest.mark.parametrize("kind", ["index", "packed"])
def test_rows_come_from_whichever_shard_holds_them(
    kind: str, request: pytest.FixtureRequest
) -> None:
    dreams, expected = DreamSet.open(request.getfixturevalue(kind)), tiny_dreams()

    for start, stop in ((0, 24), (7, 9), (8, 16), (3, 4), (15, 24)):
        assert_equal(dreams.read(start, stop), expected.select(slice(start, stop)))
    rows = torch.tensor([23, 0, 8, 8, 15, 16, 1])
    assert_equal(dreams.select(rows), expected.select(rows))
    assert torch.equal(dreams.images(rows), expected.images[rows])
    assert_equal(concatenate(list(dreams.shards())), expected)
    assert torch.equal(dreams.labels, expected.labels)
    assert (len(dreams), dreams.image_shape) == (24, (3, 8, 8))


def test_a_set_says_where_its_rows_lie(index: Path) -> None:
    dreams = DreamSet.open(index)

    assert dreams.num_shards == 3
    assert dreams.shard_rows(1) == (8, 16)
    assert dreams.shard_path(1) == index.parent / "dreams-00001-of-00003.h5"
    assert dreams.teacher_blob() == b"blob"


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 25), (5, 5), (24, 25)])
def test_rows_that_are_not_there_are_refused(index: Path, start: int, stop: int) -> None:
    with pytest.raises(IndexError):
        DreamSet.open(index).read(start, stop)


def test_selecting_rows_that_are_not_there_is_refused(index: Path) -> None:
    for rows in ([24], [-1], []):
        with pytest.raises(IndexError):
            DreamSet.open(index).select(torch.tensor(rows, dtype=torch.int64))


def test_few_files_stay_open(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreamset, "MAX_OPEN_SHARDS", 1)
    dreams = DreamSet.open(index)

    for row in (0, 8, 16, 0, 23):
        assert_equal(dreams.read(row, row + 1), tiny_dreams().select(slice(row, row + 1)))


def test_a_set_travels_by_pickle(index: Path) -> None:
    dreams = DreamSet.open(index)
    dreams.read(0, 24)

    assert_equal(pickle.loads(pickle.dumps(dreams)).read(5, 20), tiny_dreams().select(slice(5, 20)))


def test_a_forked_process_opens_its_own_files(index: Path) -> None:
    dreams = DreamSet.open(index)
    dreams.read(0, 24)
    expected = int(tiny_dreams().images.sum())

    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_sum_of, [dreams] * 4) == [expected] * 4
    assert int(dreams.read(0, 24).images.sum()) == expected


def _sum_of(dreams: DreamSet) -> int:
    return int(dreams.read(0, 24).images.sum())


def test_an_unfinished_set_says_how_to_finish_it(index: Path) -> None:
    index.unlink()

    with pytest.raises(DreamSetError, match="run the same dreamforge synth command again"):
        DreamSet.open(index)


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DreamSetError, match=r"dreams\.h5: not found"):
        DreamSet.open(tmp_path / "dreams.h5")


def test_a_missing_shard_is_named(index: Path) -> None:
    (index.parent / "dreams-00001-of-00003.h5").unlink()

    with pytest.raises(DreamSetError, match=r"00001-of-00003\.h5: not found"):
        DreamSet.open(index)


def test_a_shard_of_another_size_is_named(index: Path) -> None:
    with (index.parent / "dreams-00002-of-00003.h5").open("ab") as stream:
        stream.write(b"x")

    with pytest.raises(DreamSetError, match=r"00002-of-00003\.h5: \d+ bytes, expected \d+"):
        DreamSet.open(index)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_a_flipped_bit_is_found_before_it_is_used(index: Path) -> None:
    flip(index.parent / "dreams-00001-of-00003.h5", 3000)
    dreams = DreamSet.open(index)

    dreams.read(0, 8)
    for _ in range(2):  # not only the first time
        with pytest.raises(DreamSetError, match=r"00001-of-00003\.h5: damaged: sha256"):
            dreams.read(8, 9)


def test_a_packed_set_is_checked_too(packed: Path) -> None:
    pixels = tiny_dreams().images.numpy().tobytes()
    flip(packed, packed.read_bytes().index(pixels[:64]) + 5)

    with pytest.raises(DreamSetError, match="sha256"):
        DreamSet.open(packed).read(0, 1)


def test_a_shard_that_was_replaced_while_open_is_not_believed(index: Path) -> None:
    dreams = DreamSet.open(index)
    shard = index.parent / "dreams-00001-of-00003.h5"
    shard.write_bytes(shard.read_bytes() + b"x")

    with pytest.raises(DreamSetError, match="bytes, expected"):
        dreams.read(0, 24)


def test_shards_of_another_shape_are_refused(index: Path, tmp_path: Path) -> None:
    manifest = DreamSet.open(index).manifest
    other = Manifest(
        num_images=24, shards=manifest.shards, teacher=tiny_spec(image_shape=(3, 9, 8))
    )
    write_index(index, other, tiny_dreams().labels)

    with pytest.raises(DreamSetError, match=r"holds .* the index says"):
        DreamSet.open(index).read(0, 1)


def test_labels_that_contradict_the_index_are_refused(index: Path) -> None:
    manifest = DreamSet.open(index).manifest
    write_index(index, manifest, tiny_dreams().labels.flip(0))

    with pytest.raises(DreamSetError, match="labels differ"):
        DreamSet.open(index).read(0, 1)


def test_links_lead_nowhere_else(index: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shard = index.parent / "dreams-00000-of-00003.h5"
    shard.rename(outside / "a.h5")
    shard.symlink_to(outside / "a.h5")

    with pytest.raises(DreamSetError, match="leads out of the folder"):
        DreamSet.open(index)


def test_a_cache_of_links_beside_each_other_is_fine(index: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots"
    snapshot.mkdir()
    for path in tmp_path.glob("*.h5"):
        (snapshot / path.name).symlink_to(path)

    assert len(DreamSet.open(snapshot / "dreams.h5").read(0, 24)) == 24
