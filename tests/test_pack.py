from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, write_dream_set

from dreamforge import pack as packing
from dreamforge.pack import pack, unpack
from dreamforge.verify import verify
from shared.dreams import FIELDS
from shared.dreamset import DreamSet
from shared.errors import ConfigError


@pytest.mark.parametrize("compression", [False, True])
def test_packing_and_unpacking_change_no_row(tmp_path: Path, compression: bool) -> None:
    index = write_dream_set(tmp_path, num_shards=3, teacher=b"weights")
    one, many = tmp_path / "one.h5", tmp_path / "many.h5"

    pack(index, one, compression=compression)
    unpack(one, many, shard_size=8, compression=compression)

    source = DreamSet.open(index)
    for path in (one, many):
        dreams = DreamSet.open(path)
        for name, _, _ in FIELDS:
            assert torch.equal(getattr(dreams.read(0, 24), name), getattr(tiny_dreams(), name))
        assert dreams.teacher_blob() == b"weights"
        assert dreams.manifest.provenance == source.manifest.provenance
        assert verify(path).fine
    assert len(list(tmp_path.glob("one*"))) == 1
    assert len(list(tmp_path.glob("many*"))) == 4


def test_unpacking_gives_back_the_same_shards(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    index = write_dream_set(tmp_path / "a", num_shards=3)
    pack(index, tmp_path / "one.h5")

    manifest = unpack(tmp_path / "one.h5", tmp_path / "b/dreams.h5", shard_size=8)

    assert manifest.shards == DreamSet.open(index).manifest.shards


def test_a_large_set_stays_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_PACKED_BYTES", 1000)

    with pytest.raises(ConfigError, match="leave it in shards"):
        pack(write_dream_set(tmp_path), tmp_path / "one.h5")


def test_packing_in_place_is_refused(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)

    with pytest.raises(ConfigError, match="one of the sets to read"):
        pack(index, index, overwrite=True)
