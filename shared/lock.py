"""One process at a time at some piece of work: a file or folder that is locked while it lasts."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import DreamforgeError


@contextmanager
def alone_with(path: Path, busy: str, *, stays: bool = False) -> Iterator[None]:
    """Keep other processes out for the time of the block.

    Whoever is killed is out, too. Where there are no locks, as on some network file systems, nobody
    is kept out.

    Args:
        path: The file to lock; made here, and removed at the end.
        busy: What to say where another process has it.
        stays: Leave the file where the block raises.

    Raises:
        DreamforgeError: If another process is at it.
        OSError: If there can be no such file.
    """
    stream = _locked(path, busy)
    try:
        try:
            yield
        except BaseException:
            if not stays:
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)  # before it is free, so that nobody locks a file that goes
    finally:
        stream.close()


@contextmanager
def alone_inside(folder: Path, busy: str) -> Iterator[None]:
    """Keep other processes out of a folder that is there, by a lock on itself: no file is made.

    Args:
        folder: Where it cannot be opened, nobody is kept out.
        busy: As for :func:`alone_with`.

    Raises:
        DreamforgeError: If another process is in there.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        _lock(descriptor, busy)
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, busy: str) -> IO[str]:
    while True:
        stream = path.open("a", encoding="utf-8")
        try:
            has_locks = _lock(stream.fileno(), busy)
        except DreamforgeError:
            stream.close()
            raise
        if not has_locks or _is_still_there(path, stream):
            return stream
        stream.close()  # whoever had it has finished, and removed it


def _lock(descriptor: int, busy: str) -> bool:
    """Lock an open file or folder; return False where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DreamforgeError(busy) from None
    except OSError:
        return False
    return True


def _is_still_there(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
