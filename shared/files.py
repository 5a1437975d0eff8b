"""Files that are there whole or not at all: written beside their place, fsynced, renamed."""

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"  # ends the name of a hidden folder that waits to be gone on with
_DEVICES = Path("/dev")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UnwritableError(OSError):
    """A file cannot be written where it should be; named is that file, not a temporary one."""

    @property
    def is_full(self) -> bool:
        """Whether the disk is, or a quota."""
        return self.errno in _FULL


def make_folder_of(path: Path) -> None:
    """Make the folder that ``path`` is to lie in, and those above it.

    Raises:
        UnwritableError: If that is impossible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name ``path`` where the block cannot write to it: a full disk's error names no file.

    Args:
        path: What the user knows of.
        temporary: The file or folder that is written in its place.

    Raises:
        UnwritableError: Instead of an OSError of what is temporary, or of a full disk or quota.
    """
    try:
        yield
    except OSError as error:
        named, is_full = error.filename, error.errno in _FULL
        is_hidden = temporary is not None and Path(str(named)).is_relative_to(temporary)
        if not is_hidden and not (is_full and named is None):
            raise
        raise _unwritable(path, error) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to ``path`` when the block succeeds.

    The data is on the disk before the new name is, and the name before this returns. When the
    block raises, the temporary file is removed and ``path`` is as it was.

    Raises:
        UnwritableError: If the file cannot be made there, or a device or pipe has that name, which
            a file would replace.
    """
    _refuse_device(path)
    temporary = temporary_of(path)
    try:
        with naming(path, temporary):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # what is wrong with its folder has been said
            temporary.unlink()
    fsync_folder(path.parent)


def _refuse_device(path: Path) -> None:
    """Raise UnwritableError where ``path`` is a device or a pipe, or a name among the devices."""
    is_special = path.exists() and not (path.is_file() or path.is_dir())
    if is_special or path.parent.resolve() == _DEVICES:  # /dev/stdout may lead to a file
        raise UnwritableError(errno.EINVAL, "expected the name of a file", str(path))


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` for what will take its place; remove what is left of it.

    Raises:
        UnwritableError: If the folder cannot be made there.
    """
    folder = temporary_of(path)
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process that had the same number
    try:
        folder.mkdir()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place_of(path: Path) -> Path:
    """Return where a file of a temporary folder is to lie in the end; others lie there already."""
    folder = path.parent
    is_temporary = folder.name.startswith(".") and folder.name.endswith((".tmp", UNFINISHED))
    return folder.with_name(path.name) if is_temporary else path


def next_of(path: Path) -> Path:
    """Return the hidden folder that holds what is whole and about to take the place of ``path``."""
    return path.with_name(f".{path.name}.next")


def temporary_of(path: Path) -> Path:
    """Return what this process calls ``path``, a file or folder, until it is whole."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def _unwritable(path: Path, error: OSError) -> UnwritableError:
    return UnwritableError(error.errno, error.strerror, str(path))


def remove_stale_temporaries(*paths: Path) -> None:
    """Remove what killed processes of this host left of ``paths``: files and folders.

    See :func:`atomic_path` and :func:`temporary_folder`. Each folder is listed once: sets have
    thousands of shards.
    """
    host = f".{socket.gethostname()}."
    for folder in {path.parent for path in paths}:
        begun = {f".{path.name}" for path in paths if path.parent == folder}
        for leftover in folder.glob(".*.tmp"):
            name, _, process = leftover.name.removesuffix(".tmp").rpartition(host)
            if name in begun and process.isdigit() and not _is_running(int(process)):
                _remove(leftover)


def remove_link(path: Path) -> None:
    """Remove ``path`` where it is a symlink; what it leads to is somebody else's, and stays."""
    if path.is_symlink():
        path.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable; a no-op where folders cannot be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # some network file systems refuse to open a folder
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_json_once(path: Path, value: Any) -> bool:
    """Write ``value`` as indented JSON unless ``path`` is there; return whether this call wrote.

    Of several processes that try at the same time one succeeds, and all then read the same.
    """
    ready = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.once")
    write_json(ready, value)
    try:
        os.link(ready, path)
    except OSError:  # it is there, or the file system has no links
        if path.exists():
            return False
        write_json(path, value)
    finally:
        ready.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
