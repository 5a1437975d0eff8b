"""The folder of an export: a new one, an empty one, or in the place of an earlier export."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamforge.overwrite import files_of
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamforgeError, DreamSetError
from shared.manifest import Manifest, parse_json

MANIFEST = "manifest.json"

_CLASS_FOLDER = re.compile(r"\d+(-[\w+-]+)?")
_IMAGE = re.compile(r"\d{8,}\.png")
_TAR = re.compile(r"dreams-\d{6,}\.tar")


@contextmanager
def export_folder(dreams: DreamSet, out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``, which takes its place if the block succeeds.

    Args:
        dreams: What is exported; the manifest is written last.
        out: A folder that is not there or is empty.
        overwrite: It may be an earlier export, too, which goes once the new one is in its place.

    Raises:
        ConfigError: If something else is there, or the set itself.
        DreamforgeError: If nothing can be written there.
    """
    place = _resolved(out)
    _refuse_taken(dreams, out, place, overwrite=overwrite)
    folder, old = (place.with_name(f".{place.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DreamforgeError(
            f"{out}: cannot be written to ({error.strerror}); choose another --out"
        ) from error
    try:
        yield folder
        (folder / MANIFEST).write_text(
            json.dumps(dreams.manifest.to_json(), indent=2, allow_nan=False) + "\n",
            encoding="utf-8",
        )
        _put(folder, place, old)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _resolved(out: Path) -> Path:
    """Return the real path: ``.`` has no name, and of a link the folder behind it counts."""
    try:
        return out.resolve()
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{out}: a link that leads nowhere; choose another --out") from error


def _refuse_taken(dreams: DreamSet, out: Path, place: Path, *, overwrite: bool) -> None:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"{out}: is there already; choose another --out, or --overwrite")
    for path in files_of(dreams):
        if path.resolve().is_relative_to(place):
            raise ConfigError(f"{out}: holds the set to read; choose another --out")
    if foreign := _foreign_entry(place):
        raise ConfigError(
            f"{out}: is no earlier export ({foreign}); remove it, or choose another --out"
        )


def _foreign_entry(folder: Path) -> str:
    """Return what is in a folder that no export of a set has in its own, or ""."""
    if not folder.is_dir():
        return "a file"
    if not _is_manifest(folder / MANIFEST):
        return f"no {MANIFEST} of a dream set"
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and _CLASS_FOLDER.fullmatch(entry.name):
            others = (file for file in sorted(entry.iterdir()) if not _is_written(file, _IMAGE))
            if other := next(others, None):
                return f"it holds {entry.name}/{other.name}"
        elif entry.name != MANIFEST and not _is_written(entry, _TAR):
            return f"it holds {entry.name}"
    return ""


def _is_written(path: Path, name: re.Pattern[str]) -> bool:
    return path.is_file() and not path.is_symlink() and name.fullmatch(path.name) is not None


def _is_manifest(path: Path) -> bool:
    try:
        Manifest.from_json(parse_json(path.read_bytes()))
    except (DreamSetError, OSError):
        return False
    return True


def _put(folder: Path, place: Path, old: Path) -> None:
    """Put the finished folder into its place; what is removed goes after that."""
    if not place.exists():
        folder.rename(place)
    elif not any(place.iterdir()):
        # The folder itself stays: it may be a mount point, or the one that a shell is in.
        for entry in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            entry.rename(place / entry.name)
    else:
        place.rename(old)
        try:
            folder.rename(place)
        except BaseException:
            old.rename(place)
            raise
        shutil.rmtree(old)
