"""The folder of an export: a new one, an empty one, or in the place of an earlier export."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamforge.overwrite import files_of
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamforgeError, DreamSetError
from shared.files import naming, remove_stale_temporaries, temporary_of
from shared.lock import alone_inside
from shared.manifest import Manifest, parse_json

MANIFEST = "manifest.json"

_CLASS_FOLDER = re.compile(r"\d+(-[\w+-]+)?")
_IMAGE = re.compile(r"\d{8,}\.png")
_TAR = re.compile(r"dreams-\d{6,}\.tar")
_BEGUN_TAR = re.compile(r"\.dreams-\d{6,}\.tar\..+\.tmp")  # see shared.files.atomic_path
_LEFTOVER = re.compile(r"\.dreams\.\d+\.\w+\.(tmp|old)")


@contextmanager
def export_folder(dreams: DreamSet, out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder, which becomes ``out`` if the block succeeds.

    Where ``out`` is there already, it stays the folder that it is (a mount point, perhaps, or the
    one that a shell is in), and what is in it is exchanged.

    Args:
        dreams: What is exported; the manifest is written last.
        out: A folder that is not there or is empty.
        overwrite: It may be an earlier export, too, which goes once the new one is in its place.

    Raises:
        ConfigError: If something else is there, or the set itself.
        DreamforgeError: If nothing can be written there, or another process exports to it.
        UnwritableError: If the disk is full.
    """
    place = _resolved(out)
    busy = f"{out}: another process exports to it; wait until it is done, or choose another --out"
    with alone_inside(place, busy):  # what another one has begun looks like a killed one's
        _refuse_taken(dreams, out, place, overwrite=overwrite)
        try:
            folder = _temporary(place)
        except OSError as error:
            raise DreamforgeError(
                f"{out}: cannot be written to ({error.strerror}); choose another --out"
            ) from error
        try:
            with naming(out, folder):
                yield folder
                (folder / MANIFEST).write_text(
                    json.dumps(dreams.manifest.to_json(), indent=2, allow_nan=False) + "\n",
                    encoding="utf-8",
                )
            if folder.parent == place:
                _exchange(folder, place)
            else:
                folder.rename(place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _temporary(place: Path) -> Path:
    """Return a new folder: in ``place`` where that is there, so on its file system, else beside."""
    if place.exists():
        return _new_folder_in(place, "tmp")
    remove_stale_temporaries(place)
    folder = temporary_of(place)
    folder.mkdir(parents=True)
    return folder


def _new_folder_in(place: Path, end: str) -> Path:
    # In a container every process may have the same number, so that is not all of the name.
    return Path(tempfile.mkdtemp(prefix=f".dreams.{os.getpid()}.", suffix=f".{end}", dir=place))


def _resolved(out: Path) -> Path:
    """Return the real path: ``.`` has no name, and of a link the folder behind it counts."""
    try:
        return out.resolve()
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{out}: a link that leads nowhere; choose another --out") from error


def _refuse_taken(dreams: DreamSet, out: Path, place: Path, *, overwrite: bool) -> None:
    if not place.exists() or _is_empty(place):
        return
    if not overwrite:
        raise ConfigError(f"{out}: is there already; choose another --out, or --overwrite")
    for path in files_of(dreams):
        if path.resolve().is_relative_to(place):
            raise ConfigError(f"{out}: holds the set to read; choose another --out")
    if foreign := _what_is_foreign(place):
        raise ConfigError(
            f"{out}: is no earlier export ({foreign}); remove it, or choose another --out"
        )


def _is_empty(place: Path) -> bool:
    """Tell whether there is nothing in a folder but what killed exports had begun."""
    if not place.is_dir():
        return False
    finished = (path for path in place.iterdir() if not (_is_leftover(path) and _is_begun(path)))
    return not any(finished) and not any(_foreign_entries(place))


def _is_begun(leftover: Path) -> bool:
    return leftover.suffix == ".tmp"  # the other kind holds an export that had been finished


def _what_is_foreign(folder: Path) -> str:
    """Return what is in a folder that no export of a set has in its own, or ""."""
    if not folder.is_dir():
        return "a file"
    # An export that is killed while it exchanges them leaves the manifests in its own folders.
    places = [folder, *filter(_is_leftover, folder.iterdir())]
    if not any(_is_manifest(place / MANIFEST) for place in places):
        return f"no {MANIFEST} of a dream set"
    foreign = next(_foreign_entries(folder), None)
    return f"it holds {foreign.relative_to(folder)}" if foreign else ""


def _foreign_entries(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        is_folder = entry.is_dir() and not entry.is_symlink()
        if is_folder and _CLASS_FOLDER.fullmatch(entry.name):
            yield from (file for file in sorted(entry.iterdir()) if not _is_written(file, _IMAGE))
        elif _is_leftover(entry):
            yield from _foreign_entries(entry)
        elif not (
            (entry.name == MANIFEST and entry.is_file())
            or _is_written(entry, _TAR)
            or (_is_leftover(folder) and _is_written(entry, _BEGUN_TAR))
        ):
            yield entry


def _is_leftover(path: Path) -> bool:
    is_folder = path.is_dir() and not path.is_symlink()
    return is_folder and _LEFTOVER.fullmatch(path.name) is not None


def _is_written(path: Path, name: re.Pattern[str]) -> bool:
    return path.is_file() and not path.is_symlink() and name.fullmatch(path.name) is not None


def _is_manifest(path: Path) -> bool:
    try:
        Manifest.from_json(parse_json(path.read_bytes()))
    except (DreamSetError, OSError):
        return False
    return True


def _exchange(folder: Path, place: Path) -> None:
    """Put what is in the finished folder into ``place``; what was there goes after that.

    The old manifest is moved first and the new one last: where one is, an export is whole.
    """
    before = sorted(set(place.iterdir()) - {folder}, key=_is_not_the_manifest)
    old = _new_folder_in(place, "old")
    moves = [(path, old / path.name) for path in before]
    after = sorted(folder.iterdir(), key=_is_not_the_manifest, reverse=True)
    moves += [(path, place / path.name) for path in after]
    try:
        for source, target in moves:
            source.rename(target)
    except BaseException:
        _move_back(moves)
        with suppress(OSError):  # what could not be moved back is still in it
            old.rmdir()
        raise
    shutil.rmtree(old)


def _move_back(moves: Sequence[tuple[Path, Path]]) -> None:
    """Undo those that were made: their sources are gone."""
    for source, target in reversed(moves):
        if target.exists() and not source.exists():
            target.rename(source)


def _is_not_the_manifest(path: Path) -> bool:
    return path.name != MANIFEST
