from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set

from dreamforge.merge import merge
from dreamforge.verify import verify
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError


def sets(tmp_path: Path, *options: dict) -> list[Path]:
    paths = []
    for number, chosen in enumerate(options):
        folder = tmp_path / f"source{number}"
        folder.mkdir()
        dreams = tiny_dreams(20 + 4 * number, seed=number)
        paths.append(write_dream_set(folder, **({"dreams": dreams} | chosen)))
    return paths


def test_rows_of_all_sets_follow_each_other(tmp_path: Path) -> None:
    paths = sets(tmp_path, {}, {"num_shards": 3})
    out = tmp_path / "all.h5"

    manifest = merge(paths, out, shard_size=7, facts={"command": "merge"})

    dreams = DreamSet.open(out)
    rows = dreams.read(0, 44)
    first, second = tiny_dreams(20, seed=0), tiny_dreams(24, seed=1)
    assert torch.equal(rows.images, torch.cat([first.images, second.images]))
    assert torch.equal(rows.logits, torch.cat([first.logits, second.logits]))
    assert rows.batch.tolist() == first.batch.tolist() + [5 + n for n in second.batch.tolist()]
    assert manifest.num_images == 44
    assert max(shard.num_images for shard in manifest.shards) <= 7
    assert verify(out, deep=True).fine


def test_sources_are_noted(tmp_path: Path) -> None:
    paths = sets(
        tmp_path,
        {"synthesis": {"steps": 3, "seed": 0}, "provenance": {"license": "MIT", "seconds": 2}},
        {
            "synthesis": {"steps": 3, "seed": 1},
            "provenance": {"license": "CC0-1.0", "seconds": 3, "synthetic": False},
        },
    )

    manifest = merge(paths, tmp_path / "all.h5", facts={"command": "dreamforge merge"})

    assert manifest.synthesis == {"steps": 3}
    assert manifest.provenance["command"] == "dreamforge merge"
    assert manifest.provenance["license"] == "CC0-1.0 AND MIT"
    assert manifest.provenance["seconds"] == 5
    assert manifest.provenance["synthetic"] is False
    sources = manifest.provenance["sources"]
    assert [source["num_images"] for source in sources] == [20, 24]
    assert sources[1]["synthesis"] == {"steps": 3, "seed": 1}
    assert sources[0]["digest"] == DreamSet.open(paths[0]).manifest.digest()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ((True, True), True),
        ((True, False), False),
        ((None, False), False),
        ((True, None), None),
        (("no", True), None),
    ],
)
def test_a_set_is_synthetic_if_all_of_its_sources_say_so(tmp_path: Path, said, expected) -> None:
    parts = [{"provenance": {"seconds": 1} if one is None else {"synthetic": one}} for one in said]

    manifest = merge(sets(tmp_path, *parts), tmp_path / "all.h5")

    assert manifest.synthetic is expected
    assert manifest.provenance.get("synthetic") is expected


def test_the_history_of_a_set_stays_a_flat_list(tmp_path: Path) -> None:
    paths = sets(tmp_path, {}, {}, {})
    merge(paths[:2], tmp_path / "two.h5")

    manifest = merge([tmp_path / "two.h5", paths[2]], tmp_path / "three.h5")

    sources = manifest.provenance["sources"]
    assert [source["num_images"] for source in sources] == [44, 20, 24, 28]
    assert not any("sources" in source["provenance"] for source in sources)


def test_the_embedded_teacher_is_kept(tmp_path: Path) -> None:
    merge(sets(tmp_path, {}, {"teacher": b"weights"}), tmp_path / "all.h5")

    assert DreamSet.open(tmp_path / "all.h5").teacher_blob() == b"weights"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fingerprint": "cd" * 32}, "teacher"),
        ({"image_shape": (3, 8, 9)}, "image shape"),
        ({"mean": (0.5, 0.5, 0.4)}, "mean"),
    ],
)
def test_other_teachers_are_refused(tmp_path: Path, changes: dict, text: str) -> None:
    spec = tiny_spec(**changes)
    dreams = tiny_dreams(image_shape=spec.image_shape, seed=1)
    paths = sets(tmp_path, {}, {"spec": spec, "dreams": dreams})

    with pytest.raises(IncompatibleError, match=text):
        merge(paths, tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()


def test_nothing_to_merge_is_refused(tmp_path: Path) -> None:
    paths = sets(tmp_path, {}, {})

    with pytest.raises(ConfigError, match="at least two"):
        merge(paths[:1], tmp_path / "all.h5")
    with pytest.raises(ConfigError, match="the same dreams"):
        merge([paths[0], paths[1], paths[0]], tmp_path / "all.h5")


def test_sources_are_never_overwritten(tmp_path: Path) -> None:
    paths = sets(tmp_path, {}, {})

    for out in (paths[0], paths[1].with_suffix(".hdf5")):
        with pytest.raises(ConfigError, match="one of the sets to read"):
            merge(paths, out, overwrite=True)
    assert all(verify(path, deep=True).fine for path in paths)


def test_what_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    paths = sets(tmp_path, {}, {})
    out = tmp_path / "all.h5"
    merge(paths, out, shard_size=5)

    with pytest.raises(ConfigError, match="is there already"):
        merge(paths, out)
    merge(paths, out, overwrite=True)

    assert sorted(path.name for path in tmp_path.glob("all*")) == [
        "all-00000-of-00001.h5",
        "all.h5",
    ]
