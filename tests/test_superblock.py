import struct
from pathlib import Path

import h5py
import pytest
from dreamset_fixtures import write_dream_set

from shared.superblock import lookup3, with_checksum


def written_by_hdf5(path: Path) -> bytes:
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["rows"] = [1, 2, 3]
    return path.read_bytes()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        # From the comments of Bob Jenkins' lookup3.c (2006).
        (b"", 0xDEADBEEF),
        (b"Four score and seven years ago", 0x17770551),
    ],
)
def test_the_hash_is_the_published_one(data: bytes, value: int) -> None:
    assert lookup3(data) == value


def test_hdf5_writes_the_same_checksum(tmp_path: Path) -> None:
    image = written_by_hdf5(tmp_path / "file.h5")

    assert struct.unpack_from("<I", image, 44) == (lookup3(image[:44]),)
    assert with_checksum(image) == image


def test_a_file_with_a_wrong_checksum_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    image = bytearray(written_by_hdf5(path))
    image[44] ^= 1
    path.write_bytes(image)
    with pytest.raises(OSError, match="checksum"):
        h5py.File(path)
    path.write_bytes(with_checksum(bytes(image)))
    with h5py.File(path) as file:
        assert file["rows"][:].tolist() == [1, 2, 3]


@pytest.mark.parametrize("image", [b"", b"\x89HDF\r\n\x1a\n", b"no HDF5" * 10])
def test_what_is_no_such_file_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="superblock"):
        with_checksum(image)


def test_an_older_superblock_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w", libver="earliest") as file:
        file["rows"] = [1]
    with pytest.raises(ValueError, match="version 3"):
        with_checksum((tmp_path / "old.h5").read_bytes())


def test_a_dream_set_has_the_right_checksum_whatever_library_made_it(tmp_path: Path) -> None:
    image = write_dream_set(tmp_path).read_bytes()

    assert struct.unpack_from("<I", image, 44) == (lookup3(image[:44]),)
