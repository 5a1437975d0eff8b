"""Shards and index: written the same to the byte, read with every check that the file allows.

Of all modules only this one and the safe opener know h5py.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.chunks import FLETCHER32, ChunkTable
from shared.dreams import DreamBatch
from shared.errors import DreamforgeError, DreamSetError, ShortageError
from shared.files import atomic_path, place_of, sha256_of
from shared.manifest import (
    FORMAT,
    FORMAT_VERSION,
    Manifest,
    ShardInfo,
    canonical_json,
    parse_json,
    printable,
)
from shared.opener import ATTRIBUTES, MAX_ATTRIBUTE_BYTES, Contents, open_safely, why_missing
from shared.superblock import with_checksum
from shared.values import ARRAYS, INDEX_ARRAYS, arrays_of, bits, check_labels, check_values

CHUNK_BYTES = 192 * 1024  # 64 images of 3x32x32; one of 3x224x224
_GROWTH_BYTES = 8 * 2**20  # by which the file grows in memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Index:
    """The checked index: its manifest, and int64 ``(N,)`` labels of all rows, all in range."""

    manifest: Manifest
    labels: Tensor


def read_contents(path: Path) -> Contents:
    """Return where the five arrays of a shard (or packed set) lie, and its attributes.

    Raises:
        DreamSetError: As :func:`open_safely`, or if an array is missing or of another length.
    """
    with open_safely(path, ARRAYS) as (_, contents):
        missing = ARRAYS.keys() - contents.tables.keys()
        if missing:
            raise DreamSetError(f"has no {', '.join(sorted(missing))}; get the shard again")
        lengths = {name: table.shape[0] for name, table in contents.tables.items()}
        if len(set(lengths.values())) > 1:
            raise DreamSetError(f"arrays of unequal length: {lengths}; get the shard again")
    return contents


def read_shard(path: Path) -> DreamBatch:
    """Return all rows of a lone shard, every chunk compared with its fletcher32 checksum.

    Where an index with a sha256 is at hand, :class:`shared.shardfile.ShardFile` is faster.

    Raises:
        DreamSetError: If it is damaged, hostile or of another version.
    """
    tables = read_contents(path).tables
    with open_safely(path, ARRAYS) as (file, _), path.open("rb") as stream:
        arrays = {name: _read_twice(file, name, tables[name], stream.fileno()) for name in ARRAYS}
        dreams = DreamBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        check_values(dreams)
    return dreams


def read_shard_attributes(path: Path) -> dict[str, str | int]:
    """Return the attributes of a shard; ``teacher`` is a fingerprint, ``synthesis`` JSON text."""
    return read_contents(path).attributes


def read_index(path: Path) -> Index:
    """Return the manifest and labels of an index file.

    Raises:
        DreamSetError: If the file is damaged, hostile, of another version, or only a shard.
    """
    if not path.exists():
        raise DreamSetError(why_missing(path))
    with open_safely(path, INDEX_ARRAYS) as (file, contents):
        if "manifest" not in contents.tables:
            raise DreamSetError("is a shard, not the index; open the file without -NNNNN-of-NNNNN")
        manifest = Manifest.from_json(parse_json(_read_bytes(file, contents, "manifest")))
        _check_plain(contents, "labels")
        if contents.tables["labels"].shape[0] != manifest.num_images:
            found = contents.tables["labels"].shape[0]
            raise DreamSetError(f"{found} labels for {manifest.num_images} images; get it again")
        labels = torch.from_numpy(file["labels"][...])
        check_labels(labels, manifest.teacher.num_classes)
    return Index(manifest=manifest, labels=labels)


def read_teacher(path: Path) -> bytes | None:
    """Return the safetensors bytes of the teacher that an index embeds, or None."""
    with open_safely(path, {"teacher": INDEX_ARRAYS["teacher"]}) as (file, contents):
        if "teacher" not in contents.tables:
            return None
        return _read_bytes(file, contents, "teacher")


def write_shard(
    path: Path,
    dreams: DreamBatch,
    attributes: Mapping[str, Any],
    *,
    compression: bool = False,
) -> ShardInfo:
    """Write a shard atomically, read it back, and return what the index says of it.

    The same dreams and attributes give the same bytes (with the same libhdf5).

    Args:
        path: Where to; replaced when it exists.
        dreams: At least one row.
        attributes: Of ``shard`` and ``num_shards`` (int), ``teacher`` (fingerprint), ``synthesis``
            (dict, stored as JSON). ``format`` and ``format_version`` are added.
        compression: Gzip. Dreams shrink by some 10 to 20 %, and read several times slower.

    Raises:
        DreamSetError: If labels are out of range or logits not finite.
        DreamforgeError: If the file cannot be written, or does not read back as it was written.
    """
    check_values(dreams)
    with _writing(path) as temporary:
        with _create(temporary) as file:
            _write_attributes(file, attributes)
            for name, array in arrays_of(dreams).items():
                _write_array(file, name, array, ARRAYS[name][0], compression=compression)
        _check_written(temporary, dreams)
        return ShardInfo(
            name=path.name,
            num_images=len(dreams),
            num_bytes=temporary.stat().st_size,
            sha256=sha256_of(temporary),
        )


def info_of(path: Path, num_images: int) -> ShardInfo:
    """Return what the index is to say of a shard that is there; its contents are not looked at."""
    return ShardInfo(
        name=path.name,
        num_images=num_images,
        num_bytes=path.stat().st_size,
        sha256=sha256_of(path),
    )


def write_index(
    path: Path,
    manifest: Manifest,
    labels: Tensor,
    *,
    teacher: bytes | None = None,
    dreams: DreamBatch | None = None,
    compression: bool = False,
) -> None:
    """Write the index atomically: the last file of a set, and the sign that it is finished.

    Args:
        path: Where to; replaced when it exists.
        manifest: Its shards are next to ``path`` already.
        labels: int64 ``(N,)``, of all rows.
        teacher: The teacher's weights as safetensors, to embed.
        dreams: All rows, for a packed set (whose manifest has no shards).
        compression: Gzip the dreams of a packed set.

    Raises:
        DreamforgeError: If the file cannot be written or does not read back.
    """
    if len(labels) != manifest.num_images or manifest.packed != (dreams is not None):
        raise ValueError("labels, manifest and dreams do not describe the same set")
    with _writing(path) as temporary:
        with _create(temporary) as file:
            _write_attributes(file, {})
            blob = np.frombuffer(canonical_json(manifest.to_json()), np.uint8)
            _write_array(file, "manifest", blob, "|u1")
            _write_array(file, "labels", labels.numpy(), "<i8")
            if teacher is not None:
                _write_array(file, "teacher", np.frombuffer(teacher, np.uint8), "|u1")
            for name, array in ({} if dreams is None else arrays_of(dreams)).items():
                if name != "labels":
                    _write_array(file, name, array, ARRAYS[name][0], compression=compression)
        read_index(temporary)
        if dreams is not None:
            _check_written(temporary, dreams)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except (OSError, RuntimeError) as error:  # h5py raises both when the disk is full
        reason = printable(getattr(error, "strerror", None) or str(error), 120)
        raise ShortageError(
            f"{place_of(path)}: cannot be written to ({reason}); free some space, or choose "
            "another --out"
        ) from error


@contextmanager
def _create(path: Path) -> Iterator[Any]:
    """Yield a new h5py.File without timestamps, whose metadata libhdf5 checksums (since 1.10).

    It is built in memory and written at the end, at once: when a disk is full, libhdf5 loses its
    own file and brings the process down (segmentation fault at exit, seen with HDF5 2.0.0).
    """
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fapl_core(_GROWTH_BYTES, False)
    with h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, creation, access)) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(with_checksum(image))


def _write_attributes(file: Any, attributes: Mapping[str, Any]) -> None:
    values = {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes}
    for name, value in values.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"{name}: not an attribute of the format")
        if isinstance(value, int):
            file.attrs.create(name, value, dtype="<i8")
            continue
        text = value.encode() if isinstance(value, str) else canonical_json(value)
        if not 1 <= len(text) <= MAX_ATTRIBUTE_BYTES:
            raise DreamforgeError(
                f"{name}: {len(text)} bytes, expected at most {MAX_ATTRIBUTE_BYTES}"
            )
        # Fixed length: readers know the size before they read.
        file.attrs.create(name, text, dtype=h5py.string_dtype("utf-8", len(text)))


def _write_array(
    file: Any, name: str, array: NDArray[Any], dtype: str, *, compression: bool = False
) -> None:
    row_bytes = max(1, array[:1].nbytes)
    chunk_rows = max(1, min(len(array), CHUNK_BYTES // row_bytes))
    # Bytes of equal significance side by side compress better; single bytes are that already.
    packing = {"compression": "gzip", "compression_opts": 4, "shuffle": array.itemsize > 1}
    file.create_dataset(
        name,
        data=array,
        dtype=dtype,
        chunks=(chunk_rows, *array.shape[1:]),
        fletcher32=True,
        **(packing if compression else {}),
    )


def _read_twice(file: Any, name: str, table: ChunkTable, descriptor: int) -> NDArray[Any]:
    """Read an array without libhdf5, which bounds its size, then with it for the checksums."""
    rows = np.empty(table.shape, table.dtype)
    for start in range(0, table.shape[0], table.chunk_rows):
        stop = min(start + table.chunk_rows, table.shape[0])
        rows[start:stop] = table.read(descriptor, start, stop)
        if not np.array_equal(bits(file[name][start:stop]), bits(rows[start:stop])):
            raise DreamSetError(f"{name}: rows {start} to {stop} are damaged; get the shard again")
    return rows


def _check_written(path: Path, dreams: DreamBatch) -> None:
    stored = arrays_of(read_shard(path))
    for name, array in arrays_of(dreams).items():
        if not np.array_equal(bits(stored[name]), bits(array)):
            raise DreamforgeError(f"{path}: {name} do not read back as written; check the disk")


def _check_plain(contents: Contents, name: str) -> None:
    """Refuse a compressed or unchecked array of the index: nothing else checksums the index."""
    if name not in contents.tables:
        raise DreamSetError(f"has no {name}; get it again")
    if contents.tables[name].filters != (FLETCHER32,):
        raise DreamSetError(f"{name}: expected fletcher32 and no compression; get it again")


def _read_bytes(file: Any, contents: Contents, name: str) -> bytes:
    _check_plain(contents, name)
    return file[name][...].tobytes()
