"""Rows of a chunked array, read straight from where its chunks lie in the file.

``shared.shards`` asks libhdf5 once where the chunks are and checks the answer; from then on reading
is ``pread``. That is several times faster than going through libhdf5, needs no lock, survives a
fork, and bounds what a compressed chunk may expand to, which libhdf5 does not.
"""

import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DreamSetError

# HDF5's registered filter numbers, in the only order in which a dream set may use them.
DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3
ALLOWED_FILTERS = (
    (),
    (FLETCHER32,),
    (DEFLATE,),
    (DEFLATE, FLETCHER32),
    (SHUFFLE, DEFLATE),
    (SHUFFLE, DEFLATE, FLETCHER32),
)
CHECKSUM_BYTES = 4  # fletcher32 appends them to the chunk

MAX_CHUNK_BYTES = 64 * 2**20  # decoded; with the rows asked for, the memory that reading needs
# Deflate reaches about 1030:1. Below the floor a set of constant images is nobody's bomb.
MAX_EXPANSION, EXPANSION_FLOOR = 1000, 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkTable:
    """Where one array of a file lies. A chunk holds whole rows.

    Attributes:
        dtype: Little-endian.
        shape: Rows first.
        chunk_rows: Rows of a chunk; the last one is stored in full, too.
        filters: One of ``ALLOWED_FILTERS``.
        offsets: int64 ``(num_chunks,)``, bytes from the start of the file.
        sizes: int64 ``(num_chunks,)``, stored bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_rows: int
    filters: tuple[int, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def is_compressed(self) -> bool:
        """Whether chunks must be decoded before rows can be found in them."""
        return DEFLATE in self.filters

    def check(self, name: str, num_bytes: int) -> None:
        """Raise DreamSetError unless every chunk can lie in a file of ``num_bytes``."""
        decoded = self.chunk_rows * self.row_bytes
        if self.is_compressed:
            # Of noise, deflate makes 0.1 % more than it was; the rest is its frame and a checksum.
            smallest, largest = 1, decoded + decoded // 1000 + 64
        else:
            smallest = largest = decoded + CHECKSUM_BYTES * (FLETCHER32 in self.filters)
        fits = (
            self.sizes.min() >= smallest
            and self.sizes.max() <= largest
            and self.offsets.min() >= 0
            and (self.offsets <= num_bytes - self.sizes).all()  # a sum might overflow
        )
        if not fits:
            raise DreamSetError(f"{name}: chunks of another size, or beyond the file; get it again")

    def read(self, descriptor: int, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start`` to ``stop`` as a new array of the table's dtype.

        Raises:
            DreamSetError: If the file ends too early or a chunk does not decode to its size.
        """
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.read_into(descriptor, start, rows)
        return rows

    def read_into(self, descriptor: int, start: int, rows: NDArray[Any]) -> None:
        """Fill ``rows``, contiguous and of the table's dtype, with those from ``start`` on.

        Raises:
            DreamSetError: As :meth:`read`; ``rows`` are then filled in part.
        """
        for chunk, first, last in _spans(start, start + len(rows), self.chunk_rows):
            begin = chunk * self.chunk_rows
            self._fill(descriptor, chunk, first - begin, rows[first - start : last - start])

    def select(self, descriptor: int, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows ``indices``, in that order, as a new array; each chunk is read once."""
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        chunks, within = np.divmod(indices, self.chunk_rows)
        sparse = self.chunk_rows == 1 or 4 * len(indices) < self.shape[0]
        if sparse and not self.is_compressed:
            _read_rows(descriptor, rows, self.offsets[chunks] + within * self.row_bytes)
            return rows
        order = np.argsort(chunks, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
            if len(places):
                chosen = within[places]
                block = np.empty((int(chosen.max()) + 1, *self.shape[1:]), self.dtype)
                self._fill(descriptor, int(chunks[places[0]]), 0, block)
                rows[places] = block[chosen]
        return rows

    def _fill(self, descriptor: int, chunk: int, skip: int, rows: NDArray[Any]) -> None:
        if self.is_compressed:
            decoded = self._decode(descriptor, chunk)
            rows[...] = decoded[skip : skip + len(rows)]
        else:
            offset = int(self.offsets[chunk]) + skip * self.row_bytes
            _read_exactly(descriptor, rows, offset)

    def _decode(self, descriptor: int, chunk: int) -> NDArray[Any]:
        stored = np.empty(int(self.sizes[chunk]), np.uint8)
        _read_exactly(descriptor, stored, int(self.offsets[chunk]))
        if FLETCHER32 in self.filters:
            stored = stored[:-CHECKSUM_BYTES]
        data = _inflate(stored.tobytes(), self.chunk_rows * self.row_bytes)
        if SHUFFLE in self.filters:
            planes = np.frombuffer(data, np.uint8).reshape(self.dtype.itemsize, -1)
            data = planes.T.tobytes()
        return np.frombuffer(data, self.dtype).reshape(self.chunk_rows, *self.shape[1:])


def check_apart(tables: Iterable[ChunkTable]) -> None:
    """Raise DreamSetError if a byte belongs to two chunks of arrays that were checked one by one.

    Small files would else hold many images, and what is written once be read as several rows.
    """
    checked = list(tables)
    if not checked:
        return
    offsets = np.concatenate([table.offsets for table in checked])
    sizes = np.concatenate([table.sizes for table in checked])
    order = offsets.argsort(kind="stable")  # almost sorted as they come
    if ((offsets + sizes)[order[:-1]] > offsets[order[1:]]).any():
        raise DreamSetError("chunks overlap; refuse it")


def check_declared(
    name: str, shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, num_bytes: int
) -> None:
    """Raise DreamSetError if a file of ``num_bytes`` cannot honestly hold an array this large."""
    row_bytes = math.prod(shape[1:]) * itemsize  # Python integers: these do not overflow
    num_chunks = -(-shape[0] // chunks[0])
    if (
        shape[0] * row_bytes > max(EXPANSION_FLOOR, MAX_EXPANSION * num_bytes)
        or chunks[0] * row_bytes > MAX_CHUNK_BYTES
        or num_chunks > num_bytes
    ):
        raise DreamSetError(
            f"{name}: declares {shape} in chunks of {chunks[0] * row_bytes} bytes, more than a "
            f"file of {num_bytes} bytes may; refuse it"
        )


def _spans(start: int, stop: int, chunk_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield (chunk, first row, last row + 1) of the chunks with rows ``start`` to ``stop``."""
    for chunk in range(start // chunk_rows, -(-stop // chunk_rows)):
        yield chunk, max(start, chunk * chunk_rows), min(stop, (chunk + 1) * chunk_rows)


def _inflate(data: bytes, num_bytes: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        # One byte more than allowed tells a chunk that expands too far from one that just fits.
        inflated = decoder.decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise DreamSetError(f"a chunk cannot be decompressed ({error})") from error
    if len(inflated) != num_bytes:
        raise DreamSetError(f"a chunk expands to another size than its {num_bytes} bytes")
    return inflated


def _read_rows(descriptor: int, rows: NDArray[Any], offsets: NDArray[np.int64]) -> None:
    """Fill each row from its own place: one system call a row, and little Python beside it."""
    row_bytes = rows[0].nbytes
    view = memoryview(rows.reshape(-1).view(np.uint8).data)
    for number, offset in enumerate(offsets.tolist()):
        row = view[number * row_bytes : (number + 1) * row_bytes]
        if os.preadv(descriptor, [row], offset) != row_bytes:  # rare: a signal, or too short a file
            _read_exactly(descriptor, rows[number], offset)


def _read_exactly(descriptor: int, rows: NDArray[Any], offset: int) -> None:
    view = memoryview(rows.reshape(-1).view(np.uint8).data)
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise DreamSetError(f"the file ends {len(view)} bytes too early")
        view, offset = view[count:], offset + count
