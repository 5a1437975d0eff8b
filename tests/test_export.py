import io
import json
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
from shared.dreamset import DreamSet
from shared.errors import CheckpointError, ConfigError
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


def test_logits_that_float16_cannot_hold_are_one_line(dreams: DreamSet, tmp_path: Path) -> None:
    export(dreams, tmp_path / "folder", "imagefolder")
    teacher = linear_teacher()
    with torch.no_grad():
        teacher.network[1].weight.mul_(1e6)

    with pytest.raises(CheckpointError, match="float16"):
        import_images(tmp_path / "folder", teacher, tmp_path / "real.h5")
    assert not list(tmp_path.glob("real*"))
