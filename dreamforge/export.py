"""A dream set in the formats of other tools. Pixels are exact in all of them."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreamforge.export_folder import export_folder
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.files import atomic_path, make_folder_of, remove_stale_temporaries
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.values import ARRAYS

FORMATS = ("imagefolder", "webdataset", "npz")

_SHARD_ROWS = 10_000  # of a tar file, as img2dataset has it
_READ_ROWS = 1024
_MODES = {1: "L", 3: "RGB"}
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the format's earliest: the same dreams, the same bytes


def export(
    dreams: DreamSet,
    out: Path,
    to: str,
    *,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> int:
    """Write all dreams in another format; return how many files that made.

    What is at ``out`` is whole once it has its ``manifest`` (written last).

    Args:
        dreams: The set.
        out: A folder that is not there or is empty; for ``npz`` a file that is not there.
        to: ``imagefolder``: ``out/000-name/00000000.png``, sorted as the labels are, every class
            with a folder. ``webdataset``: tar files of ``00000000.png``, ``.cls`` and
            ``.logits.npy``. ``npz``: one file with the five arrays. All three keep the manifest
            (``manifest.json``, or ``manifest`` in the npz), the first nothing of the logits.
        overwrite: Replace an earlier export, file or folder: it has a ``manifest``, and nothing
            that an export does not write.
        progress: Told as images are written.

    Raises:
        ConfigError: If the format is unknown, cannot hold the images, or ``out`` is taken.
        DreamSetError: If a shard is damaged.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: expected one of {', '.join(FORMATS)}")
    if to == "npz":
        if out.exists() and not (overwrite and out.is_file()):
            raise ConfigError(f"{out}: is there already; choose another --out, or --overwrite")
        if out.exists() and not _is_earlier_npz(out):
            raise ConfigError(f"{out}: is no earlier export; remove it, or choose another --out")
        make_folder_of(out)
        remove_stale_temporaries(out)
        return _export_npz(dreams, out, progress)
    if dreams.image_shape[0] not in _MODES:
        raise ConfigError(
            f"--to {to}: images have {dreams.image_shape[0]} channels, PNG has 1 or 3; use npz"
        )
    write = _export_folders if to == "imagefolder" else _export_tars
    with export_folder(dreams, out, overwrite=overwrite) as folder:
        num_files = write(dreams, folder, progress)
    return num_files + 1


def folder_names(dreams: DreamSet) -> list[str]:
    """Return a folder name for each class: its label, padded, and what is harmless of its name."""
    teacher = dreams.manifest.teacher
    width = len(str(teacher.num_classes - 1))
    names = teacher.class_names or ("",) * teacher.num_classes
    slugs = (re.sub(r"[^\w+-]+", "_", name)[:60].strip("_") for name in names)
    return [f"{label:0{width}d}" + (f"-{slug}" if slug else "") for label, slug in enumerate(slugs)]


def _is_earlier_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "manifest.npy" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _export_folders(dreams: DreamSet, out: Path, progress: ProgressCallback) -> int:
    folders = [out / name for name in folder_names(dreams)]
    for folder in folders:  # empty ones, too: readers number the classes by their folders
        folder.mkdir()
    for start, rows in _blocks(dreams, progress):
        for row, (image, label) in enumerate(zip(rows.images, rows.labels.tolist(), strict=True)):
            (folders[label] / f"{start + row:08d}.png").write_bytes(_png(image))
    return dreams.num_images


def _export_tars(dreams: DreamSet, out: Path, progress: ProgressCallback) -> int:
    num_tars = -(-dreams.num_images // _SHARD_ROWS)
    for number in range(num_tars):
        first, last = number * _SHARD_ROWS, min((number + 1) * _SHARD_ROWS, dreams.num_images)
        with (
            atomic_path(out / f"dreams-{number:06d}.tar") as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for start, rows in _blocks(dreams, progress, first, last):
                for row in range(len(rows)):
                    for suffix, data in _sample(rows, row):
                        entry = tarfile.TarInfo(f"{start + row:08d}.{suffix}")
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))
    return num_tars


def _export_npz(dreams: DreamSet, out: Path, progress: ProgressCallback) -> int:
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for name, (dtype, _) in ARRAYS.items():
            with archive.open(
                zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE), "w", force_zip64=True
            ) as file:
                _write_npy(file, dreams, name, np.dtype(dtype), progress)
        manifest = json.dumps(dreams.manifest.to_json(), allow_nan=False)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.array(manifest))
        archive.writestr(zipfile.ZipInfo("manifest.npy", _ZIP_DATE), buffer.getvalue())
    return 1


def _write_npy(
    file: Any, dreams: DreamSet, name: str, dtype: np.dtype[Any], progress: ProgressCallback
) -> None:
    """Write one array as .npy without having all of it in memory."""
    tails = {"images": dreams.image_shape, "logits": (dreams.manifest.teacher.num_classes,)}
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (dreams.num_images, *tails.get(name, ())),
    }
    np.lib.format.write_array_header_1_0(file, header)
    if name == "images":
        for _, rows in _blocks(dreams, progress):
            file.write(_bytes(rows.images))
    elif name == "labels":
        file.write(_bytes(dreams.labels))
    else:
        for column in dreams.columns(name):
            file.write(_bytes(column))


def _blocks(
    dreams: DreamSet, progress: ProgressCallback, first: int = 0, last: int | None = None
) -> Iterator[tuple[int, DreamBatch]]:
    last = dreams.num_images if last is None else last
    for start in range(first, last, _READ_ROWS):
        stop = min(start + _READ_ROWS, last)
        yield start, dreams.read(start, stop)
        progress(Progress(stage="export", done=stop, total=dreams.num_images, unit="images"))


def _sample(rows: DreamBatch, row: int) -> list[tuple[str, bytes]]:
    logits = io.BytesIO()
    np.lib.format.write_array(logits, rows.logits[row].numpy())
    label = str(int(rows.labels[row])).encode()
    return [("cls", label), ("logits.npy", logits.getvalue()), ("png", _png(rows.images[row]))]


def _png(image: Tensor) -> bytes:
    """Return a uint8 ``(C, H, W)`` image as PNG, which is lossless."""
    pixels: NDArray[np.uint8] = image.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
