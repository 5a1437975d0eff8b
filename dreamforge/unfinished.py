"""A set whose images a teacher answers, interrupted: it waits for the same command to go on.

Its whole shards stay in a hidden folder beside its place, with a note of what decides its rows.
No torch here: the command asks before it imports that.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.begun import BegunInterrupt
from shared.errors import DreamforgeError, ShortageError
from shared.files import UNFINISHED, atomic_path, naming, remove_link

_NOTE = ".rows"  # hidden, as what is no part of a set


def unfinished_of(out: Path) -> Path:
    """Return the folder in which what was made of the set at ``out`` waits to be gone on with."""
    return out.with_name(f".{out.name}{UNFINISHED}")


@contextmanager
def unfinished_folder(out: Path, rows: str) -> Iterator[Path]:
    """Yield the folder for a set that will be moved to ``out``: as it was left, or an empty one.

    With a whole shard it stays when the block is interrupted, or out of memory or room; it goes
    where there is none, or the block raises what the same command would raise again.

    Args:
        out: Of the index.
        rows: What decides the rows; what another text's command has left is removed.

    Raises:
        BegunInterrupt: Instead of an interruption, where a shard is whole.
        UnwritableError: If there can be no such folder.
    """
    folder = unfinished_of(out)
    with naming(out, folder):
        remove_link(folder)
        if _note(folder) != rows:
            remove_unfinished(out)
            folder.mkdir()
            with atomic_path(folder / _NOTE) as path:
                path.write_text(rows, encoding="utf-8")
        _remove_folders_in(folder)
    try:
        with goes_on(out):
            yield folder
    except (Exception, KeyboardInterrupt) as error:
        would_recur = isinstance(error, DreamforgeError) and not isinstance(error, ShortageError)
        if would_recur or not _has_shards(out):
            remove_unfinished(out)
        raise


@contextmanager
def goes_on(out: Path) -> Iterator[None]:
    """Make an interruption of the block one of work that has begun, where a shard is whole."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if _has_shards(out):
            raise BegunInterrupt from interrupt
        raise


def remove_unfinished(out: Path) -> None:
    """Remove what an interrupted command has left for ``out``; nothing else may have that name."""
    shutil.rmtree(unfinished_of(out), ignore_errors=True)


def _has_shards(out: Path) -> bool:
    return any(unfinished_of(out).glob("[!.]*.h5"))


def _remove_folders_in(folder: Path) -> None:
    """Remove what no set has, and what would stand in the place of a shard."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _note(folder: Path) -> str | None:
    try:
        return (folder / _NOTE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
