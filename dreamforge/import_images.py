"""Real images become a transfer set of the same format, so that both go through one pipeline."""

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dreamforge.assemble import Rows, answered, write_set, written
from dreamforge.embedding import recorded
from dreamforge.overwrite import refuse_inputs
from shared.dreams import DreamBatch
from shared.errors import InputFileError
from shared.evaldata import list_classes, list_images, read_images
from shared.imagefile import check_image, open_image
from shared.manifest import Manifest
from shared.progress import ProgressCallback, ignore_progress
from shared.teacher import Teacher


def import_images(
    folder: Path,
    teacher: Teacher,
    out: Path,
    *,
    facts: Mapping[str, Any] | None = None,
    shard_size: int | None = None,
    compression: bool = False,
    embed_teacher: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Manifest:
    """Write a set of the images in a folder and below it, in the order of their paths.

    They are read shard by shard. Interrupted, the same call goes on from the last whole one.

    Labels and logits are the teacher's answers: where there are folders of classes, their names are
    not looked at, as they would not be there in the case that dreams are for.
    ``provenance["synthetic"]`` is false unless ``facts`` say otherwise.
    ``batch`` counts images, since none depends on another, and ``loss`` is 0.

    Args:
        folder: Of images, see :func:`shared.evaldata.list_images`; they are made to fit as for
            evaluation.
        teacher: Answers, where it is.
        out: The new index.
        facts: Provenance of this run.
        shard_size: As in :func:`dreamforge.assemble.write_set`, like the rest.
        compression: Gzip the arrays.
        embed_teacher: Put the teacher's weights into the index.
        overwrite: Replace what is at ``out``.
        progress: Told how many images are answered.

    Raises:
        ConfigError: If something is at ``out``, or it is the teacher or the folder itself.
        InputFileError: If there are no images, or one cannot be read.
        CheckpointError: If the teacher's logits are not finite, or too large for float16.
    """
    refuse_inputs(out, [teacher.spec.path, folder])
    spec, blob = recorded(teacher, embed=embed_teacher)
    files = _files(folder)

    def read(start: int, stop: int) -> DreamBatch:
        loaders = [partial(open_image, path) for path in files[start:stop]]
        images = read_images(loaders, spec.image_shape, str(folder))
        return answered(
            teacher, images, start, f"images of {folder}", written(progress, len(files))
        )

    return write_set(
        out,
        Rows(
            num_images=len(files),
            read=read,
            teacher=spec,
            synthesis={"method": "import"},
            provenance={"synthetic": False, "source": folder.name, **(facts or {})},
            teacher_blob=blob,
            decided_by={"images": _identity(files), "device": str(teacher.device)},
        ),
        shard_size=shard_size,
        compression=compression,
        overwrite=overwrite,
        progress=progress,
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputFileError(f"{folder}: no such folder, expected one with images")
    files = list_images(folder)
    if not files:
        raise InputFileError(f"{folder}: no images (png, jpg ...) in it or below it")
    if all(path.parent != folder for path in files):
        list_classes(folder)  # refuses one that holds train and test, say
    with ThreadPoolExecutor() as pool:  # now, and not after hours
        deque(pool.map(check_image, files), maxlen=0)
    return files


def _identity(files: Sequence[Path]) -> str:
    """Return a digest of names, sizes and times: of other files, or changed ones, it is another."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(repr((str(path), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()
