"""Images of 8 and 16 bits are read as the same pixels; what has no known range is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import InputFileError
from shared.imagefile import open_image

GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def tiff(values: np.ndarray, *, bits: int, kind: int = 1, black: int = 1) -> bytes:
    """A gray TIFF of one strip; ``kind`` 1 is unsigned, 2 signed, 3 floating point.

    With ``black`` 0, zero is white.
    """
    order = ">" if values.dtype.byteorder == ">" else "<"
    data = values.tobytes()
    facts = [(256, 16), (257, 16), (258, bits), (259, 1), (262, black), (273, 8)]
    facts += [(277, 1), (278, 16), (279, len(data)), (339, kind)]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in facts)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(facts)) + entries + bytes(4)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG in 16-bit RGB, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_gray_of_16_bits_is_that_of_8(tmp_path: Path, name: str) -> None:
    Image.fromarray(GRAY).save(tmp_path / "8.png")
    wide = GRAY.astype(np.uint16) * 257
    if name == "a.pgm":  # which Pillow before 11 does not write
        size = f"P5 {GRAY.shape[1]} {GRAY.shape[0]} 65535\n".encode()
        (tmp_path / name).write_bytes(size + wide.astype(">u2").tobytes())
    else:
        Image.fromarray(wide).save(tmp_path / name)

    expected = np.asarray(open_image(tmp_path / "8.png"))
    for mode in ("L", "RGB"):
        found = np.asarray(open_image(tmp_path / name).convert(mode))
        assert (found == np.asarray(Image.fromarray(expected).convert(mode))).all()


def test_gray_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")

    found = np.asarray(open_image(tmp_path / "a.png"))

    assert np.abs(found - values / 257).max() <= 0.5


def test_the_high_byte_may_come_first(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(GRAY.astype(">u2") * 257, bits=16))

    assert (np.asarray(open_image(tmp_path / "a.tif")) == GRAY).all()


@pytest.mark.parametrize(("dtype", "bits", "unit"), [("u1", 8, 1), ("<u2", 16, 257)])
def test_zero_may_be_white(tmp_path: Path, dtype: str, bits: int, unit: int) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(GRAY.astype(dtype) * unit, bits=bits, black=0))

    assert (np.asarray(open_image(tmp_path / "a.tif")) == 255 - GRAY).all()


def test_colors_of_a_space_that_nothing_here_converts_are_refused(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")

    with pytest.raises(InputFileError, match=r"a\.tif: found pixels in L\*a\*b\*.*save it as RGB"):
        open_image(tmp_path / "a.tif")


def test_gray_of_12_bits_has_its_own_range(tmp_path: Path) -> None:
    first, second = (GRAY.astype(np.int64) * 4095 / 255).round().astype(int).reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    (tmp_path / "a.tif").write_bytes(tiff(packed.astype(np.uint8), bits=12))

    assert (np.asarray(open_image(tmp_path / "a.tif")) == GRAY).all()


def test_color_of_16_bits_is_that_of_8(tmp_path: Path) -> None:
    color = np.stack([GRAY, GRAY.T, 255 - GRAY], 2)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(color.astype(np.uint16) * 257))

    assert (np.asarray(open_image(tmp_path / "a.png")) == color).all()


@pytest.mark.parametrize(
    ("kind", "bits", "dtype", "words"),
    [
        (1, 32, "<u4", "whole numbers"),
        (2, 32, "<i4", "whole numbers"),
        (2, 16, "<i2", "whole numbers"),
        (3, 32, "<f4", "floating-point numbers"),
    ],
)
def test_pixels_of_no_known_range_are_refused(
    tmp_path: Path, kind: int, bits: int, dtype: str, words: str
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(GRAY.astype(dtype), bits=bits, kind=kind))

    with pytest.raises(InputFileError, match=rf"a\.tif: found .*{words}.*save it with 8") as caught:
        open_image(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_other_modes_are_left_to_pillow(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4), 1).save(tmp_path / "a.png")

    assert open_image(tmp_path / "a.png").mode == mode
