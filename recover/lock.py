"""One process at a time at work in an output folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.lock import alone_with

LOCK_NAME = ".recover.lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder`` for the time of the block.

    The file stays where the block raises: it tells whose work was begun here.

    Raises:
        DreamforgeError: If another process is in there.
    """
    busy = (
        f"--out {folder}: another process is at work on it; wait until it is done, or choose "
        "another folder"
    )
    with alone_with(folder / LOCK_NAME, busy, stays=True):
        yield
