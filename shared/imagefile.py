"""One image file as 8-bit pixels: Pillow's conversion cuts off all that is brighter than 255."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from shared.errors import InputFileError

_BITS_PER_SAMPLE = 258  # tags of a TIFF
_MEANING_OF_ZERO = 262
_WHITE = 0  # of which Pillow makes black by itself where there are 8 bits
_FORMATS_OF_16_BITS = ("PNG", "PPM")  # what Pillow has as mode I of these goes from 0 to 65,535


def open_image(path: Path) -> Image.Image:
    """Return the image in ``path``, decoded, of any mode with 8 bits a channel or fewer.

    Gray images of 9 to 16 bits are scaled to 8 and rounded. Color of 16 bits has the low 8 dropped,
    by Pillow itself.

    Raises:
        InputFileError: If it cannot be read, or its values have no range that the file tells: whole
            numbers of 32 bits or with a sign, floating point.
    """
    with _reading(path), Image.open(path) as image:
        image.load()
        return _to_8_bits(image, path)


def check_image(path: Path) -> None:
    """Read the beginning of a file, which tells whether it is an image at all.

    Raises:
        InputFileError: If it is not.
    """
    with _reading(path):
        Image.open(path).close()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputFileError(f"{path}: not a readable image ({type(error).__name__})") from error


def _to_8_bits(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "LAB":
        raise InputFileError(
            f"{path}: found pixels in L*a*b*, expected gray or color; save it as RGB"
        )
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    if image.mode == "F" or (image.mode == "I" and image.format not in _FORMATS_OF_16_BITS):
        kind = "floating-point numbers" if image.mode == "F" else "whole numbers of unknown range"
        raise InputFileError(
            f"{path}: found pixels that are {kind}, expected 8 or 16 bits; save it with 8 bits"
        )
    # A TIFF of 12 bits has mode I;16 as well.
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    values = np.asarray(image).astype(np.float64) * (255 / (2**bits - 1))
    if tags.get(_MEANING_OF_ZERO) == _WHITE:
        values = 255 - values
    return Image.fromarray((values + 0.5).astype(np.uint8))
