"""A small dream set in one file, and back."""

from math import prod
from pathlib import Path

from dreamforge.assemble import Rows, refuse_itself, write_set
from dreamforge.overwrite import files_of
from dreamforge.replacing import new_set
from shared.dreams import concatenate
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.manifest import Manifest
from shared.progress import ProgressCallback, ignore_progress
from shared.shards import write_index
from shared.values import arrays_sha256

MAX_PACKED_BYTES = 2 * 2**30  # of images: a packed set is written and checked as a whole


def pack(path: Path, out: Path, *, compression: bool = False, overwrite: bool = False) -> Manifest:
    """Write a set as one file that is index and only shard at once.

    Args:
        path: The index to read.
        out: The new file.
        compression: Gzip the arrays.
        overwrite: Replace what is at ``out``.

    Returns:
        The manifest; what it says besides shards is that of the source.

    Raises:
        ConfigError: If the set is too large, or ``out`` is taken.
        DreamSetError: If the source is damaged.
    """
    dreams = DreamSet.open(path)
    refuse_itself(out, [dreams])
    num_bytes = dreams.num_images * prod(dreams.image_shape)
    if num_bytes > MAX_PACKED_BYTES:
        raise ConfigError(
            f"{path}: {num_bytes / 2**30:.1f} GiB of images, a packed set has at most "
            f"{MAX_PACKED_BYTES / 2**30:.0f}; leave it in shards"
        )
    rows = concatenate(list(dreams.shards()))
    source = dreams.manifest
    manifest = Manifest(
        num_images=source.num_images,
        shards=(),
        teacher=source.teacher,
        synthesis=source.synthesis,
        provenance=source.provenance,
        quality=source.quality,
        arrays_sha256=arrays_sha256(rows),
    )
    blob = dreams.teacher_blob()
    with new_set(out, overwrite=overwrite, sources=files_of(dreams)) as place:
        write_index(
            place, manifest, rows.labels, teacher=blob, dreams=rows, compression=compression
        )
    return manifest


def unpack(
    path: Path,
    out: Path,
    *,
    shard_size: int | None = None,
    compression: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Manifest:
    """Write a set (packed or not) as index and shards.

    Args:
        path: The index to read.
        out: The new index.
        shard_size: As in :func:`dreamforge.assemble.write_set`, like the rest.
        compression: Gzip the arrays.
        overwrite: Replace what is at ``out``.
        progress: Told after every shard.

    Raises:
        ConfigError: If ``out`` is taken.
        DreamSetError: If the source is damaged.
    """
    dreams = DreamSet.open(path)
    refuse_itself(out, [dreams])
    manifest = dreams.manifest
    return write_set(
        out,
        Rows(
            num_images=dreams.num_images,
            read=dreams.read,
            teacher=manifest.teacher,
            synthesis=manifest.synthesis,
            provenance=manifest.provenance,
            teacher_blob=dreams.teacher_blob(),
            sources=files_of(dreams),
        ),
        shard_size=shard_size,
        compression=compression,
        overwrite=overwrite,
        progress=progress,
    )
