import errno
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set
from PIL import Image
from torch import nn
from torchvision.datasets import ImageFolder

from dreamforge.export import export, folder_names
from dreamforge.import_images import import_images
from dreamforge.verify import verify
from shared import files
from shared.dreamset import DreamSet
from shared.errors import CheckpointError, ConfigError, DreamforgeError, InputFileError
from shared.teacher import Teacher


@pytest.fixture
def dreams(tmp_path: Path) -> DreamSet:
    return DreamSet.open(write_dream_set(tmp_path, num_shards=3))


def test_folders_hold_the_same_pixels_and_labels(dreams: DreamSet, tmp_path: Path) -> None:
    out = tmp_path / "folder"

    assert export(dreams, out, "imagefolder") == 25

    folder, expected = ImageFolder(str(out)), tiny_dreams()
    assert folder.classes == ["0-red", "1-green", "2-blue", "3-gray"]
    for path, label in folder.samples:
        row = int(Path(path).stem)
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        assert torch.equal(pixels, expected.images[row])
        assert label == expected.labels[row]
    assert json.loads((out / "manifest.json").read_text())["num_images"] == 24


def test_tar_files_hold_everything_and_repeat(dreams: DreamSet, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert export(dreams, tmp_path / name, "webdataset") == 2

    path = tmp_path / "a/dreams-000000.tar"
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    expected = tiny_dreams()
    assert len(members) == 72
    for row in range(24):
        pixels = np.array(Image.open(io.BytesIO(members[f"{row:08d}.png"])))
        assert np.array_equal(pixels, expected.images[row].permute(1, 2, 0).numpy())
        assert int(members[f"{row:08d}.cls"]) == expected.labels[row]
        logits = np.load(io.BytesIO(members[f"{row:08d}.logits.npy"]))
        assert np.array_equal(logits, expected.logits[row].numpy())
    assert path.read_bytes() == (tmp_path / "b/dreams-000000.tar").read_bytes()


def test_an_npz_file_holds_all_arrays(dreams: DreamSet, tmp_path: Path) -> None:
    assert export(dreams, tmp_path / "dreams.npz", "npz") == 1

    with np.load(tmp_path / "dreams.npz") as arrays:
        for name in ("images", "labels", "logits", "batch", "loss"):
            assert np.array_equal(arrays[name], getattr(tiny_dreams(), name).numpy()), name
        assert json.loads(str(arrays["manifest"])) == dreams.manifest.to_json()


@pytest.mark.parametrize("to", ["imagefolder", "webdataset", "npz"])
def test_what_a_killed_export_left_goes_with_the_next(
    dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr(files, "_is_running", lambda process: False)
    out = tmp_path / "exports" / "there"
    left = files.temporary_of(out)
    left = left.with_name(left.name.replace(f".{os.getpid()}.", ".4194305."))
    if to == "npz":
        left.parent.mkdir()
        left.write_bytes(b"half")
    else:
        left.mkdir(parents=True)
        (left / "dreams-000000.tar").write_bytes(b"half")

    export(dreams, out, to)

    assert [path.name for path in out.parent.iterdir()] == ["there"]


@pytest.mark.parametrize("to", ["imagefolder", "webdataset", "npz"])
def test_a_full_disk_is_told_of_with_the_export(
    dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("tarfile.TarFile.addfile", full)
    monkeypatch.setattr("zipfile.ZipFile.writestr", full)
    out = tmp_path / "exports" / "there"

    with pytest.raises(files.UnwritableError) as found:
        export(dreams, out, to)

    assert found.value.filename == str(out)
    assert not list(out.parent.iterdir())


def test_class_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    names = ("../../up", "/etc/passwd", "a\x1b[2J\nb", "..")
    index = write_dream_set(tmp_path, spec=tiny_spec(class_names=names))

    assert folder_names(DreamSet.open(index)) == ["0-up", "1-etc_passwd", "2-a_2J_b", "3"]


def test_what_is_there_is_kept(dreams: DreamSet, tmp_path: Path) -> None:
    for to in ("imagefolder", "webdataset"):
        with pytest.raises(ConfigError, match="is there already"):
            export(dreams, tmp_path, to)
    (tmp_path / "dreams.npz").touch()
    with pytest.raises(ConfigError, match="is there already"):
        export(dreams, tmp_path / "dreams.npz", "npz")
    with pytest.raises(ConfigError, match="expected one of imagefolder"):
        export(dreams, tmp_path / "new", "parquet")


@pytest.mark.parametrize("to", ["imagefolder", "webdataset"])
@pytest.mark.parametrize("found", ["app", "notes.txt", "0-red/notes.txt", "0-red/sub/", "0-link"])
def test_overwrite_removes_nothing_but_exports(
    dreams: DreamSet, tmp_path: Path, to: str, found: str
) -> None:
    out = tmp_path / "there"
    if found == "app":  # its manifest is another thing
        out.mkdir()
        (out / "manifest.json").write_text('{"name": "web app"}')
    else:
        export(dreams, out, "imagefolder")
        if found.endswith("/"):
            (out / found).mkdir()
        elif found == "0-link":
            (out / found).symlink_to(tmp_path)
        else:
            (out / found).write_text("precious")
    before = sorted(out.rglob("*"))

    with pytest.raises(ConfigError, match="is no earlier export"):
        export(dreams, out, to, overwrite=True)
    assert sorted(out.rglob("*")) == before


def test_overwrite_leaves_the_folder_of_the_set_alone(dreams: DreamSet, tmp_path: Path) -> None:
    manifest = json.dumps(dreams.manifest.to_json())
    (tmp_path / "manifest.json").write_text(manifest)

    with pytest.raises(ConfigError, match="holds the set to read"):
        export(dreams, tmp_path, "imagefolder", overwrite=True)
    assert DreamSet.open(dreams.path).num_images == 24


@pytest.mark.parametrize("before", ["imagefolder", "webdataset"])
@pytest.mark.parametrize("after", ["imagefolder", "webdataset"])
def test_an_earlier_export_is_replaced(
    dreams: DreamSet, tmp_path: Path, before: str, after: str
) -> None:
    out, alone = tmp_path / "there", tmp_path / "alone"
    export(dreams, out, before)

    export(dreams, out, after, overwrite=True)

    export(dreams, alone, after)
    names = [[path.relative_to(top) for path in sorted(top.rglob("*"))] for top in (out, alone)]
    assert names[0] == names[1]
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_made_is_one_line(dreams: DreamSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DreamforgeError, match=r"x: cannot be written to \(Not a directory\)"):
        export(dreams, tmp_path / "file" / "x", "webdataset")


def test_images_that_png_cannot_hold_go_to_npz(tmp_path: Path) -> None:
    spec = tiny_spec(image_shape=(2, 8, 8), mean=(0.0, 0.0), std=(1.0, 1.0))
    dreams = DreamSet.open(write_dream_set(tmp_path, spec=spec))

    with pytest.raises(ConfigError, match="2 channels"):
        export(dreams, tmp_path / "folder", "imagefolder")
    assert export(dreams, tmp_path / "dreams.npz", "npz") == 1


def linear_teacher(scale: float = 1.0) -> Teacher:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with torch.no_grad():
        network[1].weight.copy_(torch.linspace(-scale, scale, 768).sin().view(4, 192))
    return Teacher(network=network, spec=tiny_spec())


def test_exported_images_come_back_with_the_answers_of_the_teacher(
    dreams: DreamSet, tmp_path: Path
) -> None:
    teacher, out = linear_teacher(), tmp_path / "real.h5"
    export(dreams, tmp_path / "folder", "imagefolder")

    manifest = import_images(tmp_path / "folder", teacher, out, shard_size=10)

    expected = tiny_dreams()
    order = expected.labels.argsort(stable=True)  # by folder
    rows = DreamSet.open(out).read(0, 24)
    assert torch.equal(rows.images, expected.images[order])
    assert torch.equal(rows.labels, teacher.logits(rows.images).argmax(1))
    assert manifest.provenance["synthetic"] is False
    assert manifest.quality["teacher_accuracy"] == 1.0
    assert len(manifest.shards) == 3
    assert verify(out, deep=True, teacher=teacher).fine


def test_images_need_no_folders_of_classes(dreams: DreamSet, tmp_path: Path) -> None:
    export(dreams, tmp_path / "folder", "imagefolder")
    files = sorted((tmp_path / "folder").rglob("*.png"))
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(files):
        file.rename(tmp_path / "flat" / f"{number:03d}.png")

    import_images(tmp_path / "flat", linear_teacher(), tmp_path / "real.h5")

    expected = tiny_dreams()
    order = expected.labels.argsort(stable=True)
    assert torch.equal(
        DreamSet.open(tmp_path / "real.h5").read(0, 24).images, expected.images[order]
    )


def test_a_folder_of_splits_or_of_nothing_is_no_folder_of_images(
    dreams: DreamSet, tmp_path: Path
) -> None:
    export(dreams, tmp_path / "split" / "train", "imagefolder")
    (tmp_path / "empty").mkdir()
    for name, expected in (
        ("split", "the splits train"),
        ("empty", "no images"),
        ("no", "no such"),
    ):
        with pytest.raises(InputFileError, match=expected):
            import_images(tmp_path / name, linear_teacher(), tmp_path / "real.h5")


def test_logits_that_float16_cannot_hold_are_one_line(dreams: DreamSet, tmp_path: Path) -> None:
    export(dreams, tmp_path / "folder", "imagefolder")
    teacher = linear_teacher()
    with torch.no_grad():
        teacher.network[1].weight.mul_(1e6)

    with pytest.raises(CheckpointError, match="float16"):
        import_images(tmp_path / "folder", teacher, tmp_path / "real.h5")
    assert not list(tmp_path.glob("real*"))
