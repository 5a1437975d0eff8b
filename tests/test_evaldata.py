"""Folders of images become uint8 tensors in the teacher's order of classes."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import IncompatibleError, InputFileError
from shared.evaldata import fit, open_eval_data, read_cifar10
from shared.spec import TeacherSpec


def make_spec(
    *, channels: int = 3, size: tuple[int, int] = (4, 6), names: tuple[str, ...] | None = None
) -> TeacherSpec:
    return TeacherSpec(
        architecture="resnet8",
        num_classes=len(names) if names else 2,
        image_shape=(channels, *size),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        class_names=names,
        fingerprint="0" * 64,
    )


def write_image(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.fixture
def folder(tmp_path: Path, pixels: np.ndarray) -> Path:
    write_image(tmp_path / "cat" / "b.png", pixels + 1)
    write_image(tmp_path / "cat" / "a.png", pixels)
    write_image(tmp_path / "dog" / "deep" / "c.PNG", pixels + 2)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    return tmp_path


def test_images_of_the_right_size_are_exact_and_sorted(folder: Path, pixels: np.ndarray) -> None:
    data = open_eval_data(str(folder), make_spec())

    assert data.images.dtype == torch.uint8
    assert data.labels.tolist() == [0, 0, 1]
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    for index in range(3):
        assert torch.equal(data.images[index], expected + index)


def test_folders_go_by_name_where_the_teacher_knows_the_names(folder: Path) -> None:
    data = open_eval_data(str(folder), make_spec(names=("dog", "emu", "cat")))

    assert data.labels.tolist() == [2, 2, 0]


def test_folders_of_other_names_are_incompatible(folder: Path) -> None:
    with pytest.raises(IncompatibleError, match=r"a class called 'cat'.*\(a, b\)"):
        open_eval_data(str(folder), make_spec(names=("a", "b")))


def test_an_assumed_order_is_remarked_on(folder: Path) -> None:
    (remark,) = open_eval_data(str(folder), make_spec()).remarks

    assert "in this order: cat, dog;" in remark
    assert open_eval_data(str(folder), make_spec(names=("dog", "cat"))).remarks == ()


def test_hidden_folders_and_files_are_passed_over(folder: Path, pixels: np.ndarray) -> None:
    # What other programs leave behind: thumbnails, resource forks, checkpoints of notebooks.
    for place in (".thumbnails/x.png", "cat/._a.png", "cat/.ipynb_checkpoints/a.png"):
        write_image(folder / place, pixels)

    assert open_eval_data(str(folder), make_spec()).labels.tolist() == [0, 0, 1]


def test_a_hidden_folder_may_hold_the_class_folders(tmp_path: Path, pixels: np.ndarray) -> None:
    for name in ("cat", "dog"):
        write_image(tmp_path / ".cache" / name / "a.png", pixels)

    assert open_eval_data(str(tmp_path / ".cache"), make_spec()).labels.tolist() == [0, 1]


def test_images_of_16_bits_are_those_of_8(tmp_path: Path) -> None:
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    write_image(tmp_path / "a" / "8.png", gray)
    write_image(tmp_path / "b" / "16.png", gray.astype(np.uint16) * 257)

    images = open_eval_data(str(tmp_path), make_spec()).images

    assert torch.equal(images[0], images[1])


def test_gray_teachers_get_gray_images(tmp_path: Path) -> None:
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6)
    write_image(tmp_path / "a" / "x.png", gray)
    write_image(tmp_path / "b" / "x.png", np.stack([gray] * 3, axis=2))

    data = open_eval_data(str(tmp_path), make_spec(channels=1))

    assert torch.equal(data.images[0, 0], torch.from_numpy(gray))
    assert torch.equal(data.images[1], data.images[0])


def test_teachers_of_other_channel_counts_are_incompatible(folder: Path) -> None:
    with pytest.raises(IncompatibleError, match="4 channels"):
        open_eval_data(str(folder), make_spec(channels=4))


def test_larger_images_are_resized_and_cropped_at_the_center() -> None:
    # 256 x 256 with a white center of 224: exactly the crop of the resized short side.
    array = np.zeros((256, 256), dtype=np.uint8)
    array[16:240, 16:240] = 255

    out = np.asarray(fit(Image.fromarray(array), 224, 224))

    assert out.shape == (224, 224)
    assert (out == 255).all()


def test_smaller_images_are_stretched() -> None:
    image = fit(Image.new("L", (3, 9), 7), 6, 5)

    assert image.size == (5, 6)
    assert set(image.tobytes()) == {7}


def test_wide_images_fill_the_crop() -> None:
    assert fit(Image.new("L", (300, 100)), 32, 48).size == (48, 32)


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "bare" / "cat").mkdir(parents=True)
    (tmp_path / "bare" / "dog").mkdir(parents=True)
    for name, words in {
        "nothing": "no such folder",
        "empty": "no folders",
        "data": "splits train",
        "bare": "no images",
    }.items():
        with pytest.raises(InputFileError, match=words) as caught:
            open_eval_data(str(tmp_path / name), make_spec())
        assert "\n" not in str(caught.value)


def test_a_broken_image_is_named(folder: Path) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")

    with pytest.raises(InputFileError, match=r"broken\.png"):
        open_eval_data(str(folder), make_spec())


def test_missing_cifar10_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="cifar-10-batches-py"):
        open_eval_data(f"cifar10:{tmp_path}", make_spec(names=tuple("abcdefghij")))


def test_cifar10_is_read_as_torchvision_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(
        CIFAR10, "_load_meta", lambda self: setattr(self, "classes", list("abcdefghij"))
    )
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": rows, "labels": [3, 9]}))

    data = open_eval_data(
        f"cifar10:{tmp_path}", make_spec(size=(32, 32), names=tuple("jihgfedcba"))
    )

    assert torch.equal(data.images, torch.from_numpy(rows).view(2, 3, 32, 32))
    assert data.labels.tolist() == [6, 0]

    for number in range(1, 6):
        batch = {"data": rows[:1], "labels": [number]}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch))
    own, names = read_cifar10(tmp_path, (3, 32, 32), train=True)
    assert own.labels.tolist() == [1, 2, 3, 4, 5]
    assert names == list("abcdefghij")
