"""The checksum of an HDF5 file's first bytes, put right.

HDF5 1.14 (h5py up to 3.15) hands out the image of a file in memory with its "open for writing" mark
cleared, and the checksum of the superblock still that of the marked one; nothing opens such a file.
HDF5 2.0 puts it right itself.
"""

import struct

_SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")  # version 3, with 8 bytes to an address
_MAGIC = b"\x89HDF\r\n\x1a\n"
_MASK = 0xFFFFFFFF


def with_checksum(image: bytes) -> bytes:
    """Return a file's bytes with the checksum that its superblock should have.

    Raises:
        ValueError: If it does not begin with a superblock of version 3.
    """
    head, size = image[: _SUPERBLOCK.size], _SUPERBLOCK.size
    if len(head) < size or head[:11] != _MAGIC + bytes([3, 8, 8]):
        raise ValueError("not an HDF5 file with a superblock of version 3")
    return b"".join([head, struct.pack("<I", lookup3(head)), image[size + 4 :]])


def lookup3(data: bytes) -> int:
    """Return the 32-bit hash by which HDF5 checks metadata: lookup3 (Jenkins 2006) of seed 0."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    if not data:
        return c
    while len(data) > 12:
        x, y, z = struct.unpack_from("<III", data)
        a, b, c = _mix((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
        data = data[12:]
    x, y, z = struct.unpack("<III", data.ljust(12, b"\0"))
    return _finish((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for first, second in ((4, 6), (8, 16), (19, 4)):
        a, c = _turned(a - c, c, first), (c + b) & _MASK
        b, a = _turned(b - a, a, second), (a + c) & _MASK
        # Two of three variables have had their turn; the next begins with the third.
        a, b, c = c, a, b
    return a, b, c


def _finish(a: int, b: int, c: int) -> int:
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, shift)) & _MASK
        a, b, c = b, c, a
    return b


def _turned(value: int, by: int, shift: int) -> int:
    return (value & _MASK) ^ _rotated(by, shift)


def _rotated(value: int, shift: int) -> int:
    return (value << shift | value >> 32 - shift) & _MASK
