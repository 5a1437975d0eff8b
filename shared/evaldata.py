"""Real images to judge by: a folder per class, or CIFAR-10 as torchvision keeps it."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shared.classes import match_classes
from shared.device import num_bytes_free
from shared.errors import ConfigError, IncompatibleError, InputFileError, MemoryShortageError
from shared.imagefile import open_image
from shared.spec import SIGMOID, TeacherSpec

_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"})
_CROP_FRACTION = 0.875  # 224 of 256 pixels, torchvision's convention for evaluation
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: the digest is kept
class EvalData:
    """Labelled images on the CPU.

    Attributes:
        images: uint8 ``(N, C, H, W)``, of the teacher's image shape.
        labels: int64 ``(N,)``, in the teacher's order of classes; or of several findings int8
            ``(N, C)``: 1 present, 0 absent, -1 not known.
        remarks: What had to be assumed, one sentence each.
    """

    images: Tensor
    labels: Tensor
    remarks: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of the images and their labels, in whatever order."""
        state = hashlib.sha256(str((*self.images.shape, *self.labels.shape)).encode())
        pairs = zip(self.images.numpy(), self.labels.numpy(), strict=True)
        for row in sorted(
            hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in pairs
        ):
            state.update(row)
        return state.hexdigest()


def open_eval_data(source: str, spec: TeacherSpec) -> EvalData:
    """Return all images of ``source``, made to fit the teacher.

    Args:
        source: A folder with one folder of images per class, or ``cifar10:ROOT`` for the test
            split of CIFAR-10 in torchvision's folder ROOT (not downloaded), or a table of findings,
            ``.csv`` (see :mod:`shared.findings`).
        spec: The teacher's image shape and classes, see :mod:`shared.classes`.

    Raises:
        ConfigError: If ``source`` is empty.
        InputFileError: If the folder or an image in it cannot be used.
        IncompatibleError: If classes or channels are not the teacher's.
    """
    if not source:  # of a variable that is not set; the path of nothing is the folder one is in
        raise ConfigError("--eval-data: found nothing, expected a folder, cifar10:ROOT or a table")
    if source.startswith("cifar10:"):
        return _open_cifar10(Path(source.removeprefix("cifar10:")), spec)
    root = Path(source)
    if root.suffix.lower() == ".csv":
        from shared.findings import open_findings  # which reads its images by this module

        return open_findings(root, spec)
    if root.is_file():
        raise InputFileError(
            f"{source}: found a file, expected a folder with a folder per class, cifar10:ROOT, or "
            "a table of findings (.csv)"
        )
    labels, remarks = match_classes(list_classes(root), spec, source)
    return replace(read_image_folder(root, labels, spec.image_shape), remarks=remarks)


def eval_data_of(images: Tensor, labels: Tensor, spec: TeacherSpec) -> EvalData:
    """Return images at hand, checked.

    Args:
        images: uint8 ``(N, C, H, W)``, of the teacher's image shape.
        labels: Whole numbers ``(N,)`` in [0, classes); or of several findings ``(N, C)``: 1, 0,
            -1 not known.
        spec: Of the teacher.

    Raises:
        IncompatibleError: If they are anything else, or no finding is known.
    """
    shape = spec.image_shape
    try:
        images, labels = torch.as_tensor(images), torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise IncompatibleError(
            f"eval_data: found {type(images).__name__} and {type(labels).__name__}, expected "
            "tensors of images and labels"
        ) from error
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or not len(images):
        raise IncompatibleError(
            f"eval_data: found images {images.dtype} {tuple(images.shape)}, expected torch.uint8 "
            f"(N, {', '.join(map(str, shape))})"
        )
    if images.is_meta or labels.is_meta:
        raise IncompatibleError(
            "eval_data: found tensors on the device meta, which have no values; expected images "
            "and labels in memory"
        )
    of_findings = spec.answers == SIGMOID and labels.ndim == 2
    expected = (len(images), spec.num_classes - 1) if of_findings else (len(images),)
    low, high = (-1, 1) if of_findings else (0, spec.num_classes - 1)
    whole = not (labels.is_floating_point() or labels.is_complex())
    fits = whole and tuple(labels.shape) == expected
    if not fits or int(labels.min()) < low or int(labels.max()) > high:
        raise IncompatibleError(
            f"eval_data: found labels {labels.dtype} {tuple(labels.shape)}, expected whole numbers "
            f"{expected} from {low} to {high}"
        )
    kind = torch.int8 if of_findings else torch.int64
    data = EvalData(images=images.cpu(), labels=labels.cpu().to(kind))
    if not of_findings:
        return data
    from shared.findings import remarks_on_curves

    if bool((labels < 0).all()):
        raise IncompatibleError(
            "eval_data: found no label that is known (1 or 0), all are -1; expected some"
        )
    return replace(data, remarks=remarks_on_curves(data.labels, spec, "eval_data"))


def digests_of(images: Tensor) -> list[bytes]:
    """Return the sha256 of every image of uint8 ``(N, C, H, W)`` on the CPU."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images.numpy()]


def list_classes(root: Path) -> list[str]:
    """Return the names of the class folders in ``root``, sorted as text; hidden ones are none.

    Raises:
        InputFileError: If there is no such folder, or no folder in it.
    """
    if not root.is_dir():
        raise InputFileError(f"{root}: no such folder, expected one with a folder per class")
    names = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not _is_hidden(entry.name)
    )
    if not names:
        raise InputFileError(f"{root}: no folders in it, expected one folder of images per class")
    if set(names) <= {"train", "test", "val", "valid", "validation"}:
        raise InputFileError(f"{root}: holds the splits {', '.join(names)}; name one of them")
    return names


def list_images(folder: Path) -> list[Path]:
    """Return the image files in ``folder`` and below it, sorted by path; hidden ones are none."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _EXTENSIONS
        and not any(map(_is_hidden, path.relative_to(folder).parts))
        and path.is_file()
    ]


def read_image_folder(
    root: Path, labels: dict[str, int], image_shape: tuple[int, int, int]
) -> EvalData:
    """Return the images in the class folders ``labels`` of ``root``, each made to fit.

    Args:
        root: Holds the class folders; images may lie deeper in them.
        labels: Folder name to label.
        image_shape: ``(C, H, W)``; C is 1 (gray) or 3 (RGB).

    Raises:
        InputFileError: If there are no images, or one cannot be read.
        IncompatibleError: If C is neither 1 nor 3.
    """
    files = [(path, label) for name, label in labels.items() for path in list_images(root / name)]
    if not files:
        raise InputFileError(f"{root}: no images (png, jpg ...) in its {len(labels)} class folders")
    loaders = [partial(open_image, path) for path, _ in files]
    images = read_images(loaders, image_shape, str(root))
    return EvalData(images=images, labels=torch.tensor([label for _, label in files]))


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the image at ``height`` x ``width`` pixels, as classifiers are usually evaluated.

    An image of that size is left alone; one that is smaller either way is stretched to it; of a
    larger one, the short side is resized to size / 0.875 and the center cropped.
    """
    if image.size == (width, height):
        return image
    if image.width < width or image.height < height:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    scale = max(height / image.height, width / image.width) / _CROP_FRACTION
    size = (round(image.width * scale), round(image.height * scale))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))


def read_cifar10(
    root: Path, image_shape: tuple[int, int, int], *, train: bool = False
) -> tuple[EvalData, list[str]]:
    """Return a split of CIFAR-10 with its own labels, and the names of its classes.

    Args:
        root: torchvision's folder; nothing is downloaded.
        image_shape: ``(C, H, W)``; C is 1 (gray) or 3 (RGB).
        train: The 50,000 images to learn from, else the 10,000 to judge by.

    Raises:
        InputFileError: If it is not there.
        IncompatibleError: If C is neither 1 nor 3.
    """
    from torchvision.datasets import CIFAR10  # slow to import

    try:
        dataset = CIFAR10(str(root), train=train, download=False)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise InputFileError(
            f"cifar10:{root}: no CIFAR-10 there, expected the folder cifar-10-batches-py as "
            "torchvision unpacks it"
        ) from error
    loaders = [partial(Image.fromarray, array) for array in dataset.data]
    images = read_images(loaders, image_shape, f"cifar10:{root}")
    return EvalData(images=images, labels=torch.tensor(dataset.targets)), list(dataset.classes)


def _open_cifar10(root: Path, spec: TeacherSpec) -> EvalData:
    data, names = read_cifar10(root, spec.image_shape)
    order, remarks = match_classes(names, spec, f"cifar10:{root}")
    labels = torch.tensor([order[name] for name in names])[data.labels]
    return EvalData(images=data.images, labels=labels, remarks=remarks)


def read_images(
    loaders: Sequence[Callable[[], Image.Image]], image_shape: tuple[int, int, int], origin: str
) -> Tensor:
    """Return uint8 ``(N, C, H, W)``: what the loaders return, each made to fit.

    Args:
        loaders: One per image.
        image_shape: ``(C, H, W)``; C is 1 (gray) or 3 (RGB).
        origin: Names the images in errors.

    Raises:
        InputFileError: If there is no memory for them, or whatever a loader raises.
        IncompatibleError: If C is neither 1 nor 3.
    """
    channels, height, width = image_shape
    if channels not in _MODES:
        raise IncompatibleError(
            f"{origin}: the teacher takes {channels} channels, images on disk give 1 or 3"
        )
    num_bytes = len(loaders) * channels * height * width
    free = num_bytes_free(torch.device("cpu"))
    if num_bytes > free:
        raise MemoryShortageError(
            f"{origin}: {len(loaders)} images need {num_bytes / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} are free; use fewer images"
        )
    images = torch.empty(len(loaders), channels, height, width, dtype=torch.uint8)

    def read(index: int) -> None:
        image = fit(loaders[index]().convert(_MODES[channels]), height, width)
        pixels = torch.from_numpy(np.array(image)).view(height, width, channels)
        images[index] = pixels.permute(2, 0, 1)

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # Pillow decodes in parallel
        deque(pool.map(read, range(len(loaders))), maxlen=0)  # raises what a reader raised
    return images


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
