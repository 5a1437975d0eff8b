"""One process at a time at work in an output folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import DreamforgeError

LOCK_NAME = ".recover.lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder`` for the time of the block.

    Whoever is killed is out, too. Where there are no locks, as on some network file systems, nobody
    is kept out. The file stays where the block raises: it tells whose work was begun here.

    Raises:
        DreamforgeError: If another process is in there.
    """
    path = folder / LOCK_NAME
    stream = _locked(path)
    try:
        yield
        path.unlink(missing_ok=True)  # before it is free, so that nobody locks a file that goes
    finally:
        stream.close()


def _locked(path: Path) -> IO[str]:
    while True:
        stream = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise DreamforgeError(
                f"--out {path.parent}: another process is at work on it; wait until it is done, or "
                "choose another folder"
            ) from None
        except OSError:  # no locks here
            return stream
        if _is_still_there(path, stream):
            return stream
        stream.close()  # whoever had it has finished, and removed it


def _is_still_there(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
