"""The safe opener: a file of a dream set is opened as if it were hostile.

libhdf5 tells where the arrays lie, and everything that a dream set does not need is refused before
a row is read (docs/format.md): links, external and virtual storage, foreign filters, missing or
overlapping chunks, sizes that the file cannot hold. Rows are read by ``shared.chunks``.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from shared.chunks import ALLOWED_FILTERS, ChunkTable, check_apart, check_declared
from shared.errors import DreamSetError, FormatVersionError
from shared.files import next_of
from shared.manifest import FORMAT, FORMAT_VERSION, printable

ATTRIBUTES = ("format", "format_version", "shard", "num_shards", "teacher", "synthesis")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEAD_BYTES = 2**20  # of a damaged file, to find in them what it was
MAX_ATTRIBUTE_BYTES = 60_000  # libhdf5 stores up to 64 KiB in an object header

_LIBRARY_ERRORS = (
    OSError,
    KeyError,
    IndexError,
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
    OverflowError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a checked file holds: where its arrays lie, and the attributes that the format names."""

    tables: dict[str, ChunkTable]
    attributes: dict[str, str | int]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file causes into a DreamSetError that begins with its path."""
    try:
        yield
    except DreamSetError as error:
        raise type(error)(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DreamSetError(f"{path}: not found; check the path, or copy the file again") from error
    except _LIBRARY_ERRORS as error:
        reason = printable(f"{type(error).__name__}: {error}", 160)
        raise DreamSetError(f"{path}: damaged or no dream set; get it again ({reason})") from error


@contextmanager
def open_safely(
    path: Path, layout: Mapping[str, tuple[str, int]]
) -> Iterator[tuple[Any, Contents]]:
    """Open a file of a dream set read-only and check what is to be read of it.

    Args:
        path: The file.
        layout: Arrays to look for, with dtype and number of dimensions. Those that are not there
            are left out of the result; other names in the file are not touched.

    Yields:
        The open ``h5py.File`` and its contents. Nothing of the arrays has been read.

    Raises:
        DreamSetError: If the file is no dream set, has another version, or holds anything that
            the format forbids. Everything that libhdf5 raises in the block becomes this, too.
    """
    with naming(path):
        if not path.stat().st_size or not path.is_file():
            raise DreamSetError("empty or not a file, expected HDF5; get it again")
        with h5py.File(path, "r", locking=False) as file:
            if file.userblock_size:
                raise DreamSetError("has a user block, which no dream set has; refuse it")
            attributes = _attributes(file)
            _check_version(attributes)
            tables = {
                name: _chunk_table(file, name, dtype, num_dims, path.stat().st_size)
                for name, (dtype, num_dims) in layout.items()
                if file.id.links.exists(name.encode())
            }
            check_apart(tables.values())
            yield file, Contents(tables=tables, attributes=attributes)


def was_dream_set(path: Path) -> bool:
    """Tell whether no more than a dream set would be lost with a file: nothing else is in it.

    True for the files of dream sets of any version, whole or damaged, for empty files, and where
    there is none.
    """
    if not path.is_file():
        return not path.exists()
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except FileNotFoundError:  # another worker has just removed it
        return True
    if not head.startswith(_HDF5_MAGIC):
        return not head
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _attributes(file).get("format") == FORMAT
    except FileNotFoundError:
        return True
    except (DreamSetError, *_LIBRARY_ERRORS):  # truncated, perhaps: its beginning still says it
        return FORMAT.encode() in head


def holds_manifest(path: Path) -> bool:
    """Tell whether a file is an index, of any version: a set, that is, and no shard of one."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as stream:
            if stream.read(len(_HDF5_MAGIC)) != _HDF5_MAGIC:
                return False
        with h5py.File(path, "r", locking=False) as file:
            is_set = _attributes(file).get("format") == FORMAT
            return is_set and bool(file.id.links.exists(b"manifest"))
    except (DreamSetError, *_LIBRARY_ERRORS):  # damaged, gone, or none of ours
        return False


def why_missing(path: Path) -> str:
    """Return the error for an index that is not there: its shards may be, or its successor."""
    if next_of(path).is_dir():
        return (
            f"{path}: not found, but {next_of(path).name}, a new set that was about to take its "
            "place; repeat the command that made it, which puts it there"
        )
    if any(path.parent.glob(f"{path.stem}-[0-9]*-of-[0-9]*.h5")):
        return (
            f"{path}: not found, but shards of it: an unfinished set; "
            "run the same dreamforge synth command again to finish it"
        )
    return f"{path}: not found; expected the index of a dream set, such as dreams.h5"


def _attributes(file: Any) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for name in ATTRIBUTES:
        if not h5py.h5a.exists(file.id, name.encode()):
            continue
        attribute = h5py.h5a.open(file.id, name.encode())
        kind = attribute.get_type()
        is_text = isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str()
        is_whole = isinstance(kind, h5py.h5t.TypeIntegerID)
        size = kind.get_size()
        if attribute.shape != () or not (is_text or is_whole) or size > MAX_ATTRIBUTE_BYTES:
            raise DreamSetError(
                f"attribute {name}: expected a short text or a number; get it again"
            )
        value = np.empty((), attribute.dtype)
        attribute.read(value)
        found[name] = value.item().decode("utf-8") if is_text else int(value)
    return found


def _check_version(attributes: Mapping[str, str | int]) -> None:
    if attributes.get("format") != FORMAT:
        raise DreamSetError("HDF5, but not a dream set; expected a file made by dreamforge")
    version = attributes.get("format_version")
    if type(version) is not int:
        raise DreamSetError("no format version; get it again")
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"found format version {version}, this reader knows {FORMAT_VERSION}: update dreamforge"
        )


def _chunk_table(file: Any, name: str, dtype: str, num_dims: int, num_bytes: int) -> ChunkTable:
    """Check one dataset of the root group without reading it, and return where its chunks are."""
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise DreamSetError(f"{name}: a link to somewhere else, expected an array; refuse the file")
    if h5py.h5o.get_info(file.id, name.encode()).type != h5py.h5o.TYPE_DATASET:
        raise DreamSetError(f"{name}: not an array; get it again")
    dataset = h5py.h5d.open(file.id, name.encode())
    creation = dataset.get_create_plist()
    _check_storage(name, creation)
    shape, chunks = dataset.shape, creation.get_chunk()
    if not dataset.get_type().equal(h5py.h5t.py_create(np.dtype(dtype))) or len(shape) != num_dims:
        raise DreamSetError(f"{name}: another type or rank than {dtype} with {num_dims} dimensions")
    if min(shape) < 1 or chunks[1:] != shape[1:]:
        raise DreamSetError(f"{name}: empty, or its chunks split rows: {shape} in {chunks}")
    filters = tuple(creation.get_filter(i)[0] for i in range(creation.get_nfilters()))
    if filters not in ALLOWED_FILTERS:
        raise DreamSetError(f"{name}: filters {filters}, expected shuffle, gzip, fletcher32 only")
    check_declared(name, shape, chunks, np.dtype(dtype).itemsize, num_bytes)
    offsets, sizes = _chunks(name, dataset, shape[0], chunks[0])
    table = ChunkTable(
        dtype=np.dtype(dtype),
        shape=shape,
        chunk_rows=chunks[0],
        filters=filters,
        offsets=offsets,
        sizes=sizes,
    )
    table.check(name, num_bytes)
    return table


def _check_storage(name: str, creation: Any) -> None:
    layout = creation.get_layout()
    if creation.get_external_count():
        raise DreamSetError(f"{name}: external storage, which can hold any file; refuse the file")
    if layout == h5py.h5d.VIRTUAL:
        raise DreamSetError(
            f"{name}: virtual dataset, whose sources can be any file; refuse the file"
        )
    if layout != h5py.h5d.CHUNKED:
        raise DreamSetError(f"{name}: not chunked, expected chunks of whole rows; get it again")


def _chunks(
    name: str, dataset: Any, num_rows: int, chunk_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    entries: list[Any] = []
    dataset.chunk_iter(entries.append)
    entries.sort(key=lambda entry: entry.chunk_offset[0])
    found = [entry.chunk_offset[0] for entry in entries]
    if found != list(range(0, num_rows, chunk_rows)) or any(e.byte_offset is None for e in entries):
        raise DreamSetError(f"{name}: chunks are missing, which would read as zeros; get it again")
    if any(entry.filter_mask for entry in entries):
        raise DreamSetError(f"{name}: chunks without the array's filters; get it again")
    columns = [(entry.byte_offset, entry.size) for entry in entries]
    offsets, sizes = np.array(columns, dtype=np.int64).T.copy()
    return offsets, sizes
