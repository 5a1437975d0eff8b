"""A set whose images a teacher answers, interrupted: it waits for the same command to go on.

Its whole shards stay in a hidden folder beside its place, with a note of what decides its rows.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.begun import BegunInterrupt
from shared.dreams import DreamBatch
from shared.errors import DreamforgeError, DreamSetError, ShortageError
from shared.files import UNFINISHED, atomic_path, naming, remove_link
from shared.manifest import parse_json
from shared.shards import read_shard, read_shard_attributes

_NOTE = ".rows"  # hidden, as what is no part of a set


def unfinished_of(out: Path) -> Path:
    """Return the folder in which what was made of the set at ``out`` waits to be gone on with."""
    return out.with_name(f".{out.name}{UNFINISHED}")


@contextmanager
def unfinished_folder(out: Path, rows: str) -> Iterator[Path]:
    """Yield the folder for a set that will be moved to ``out``: as it was left, or an empty one.

    It stays when the block is interrupted, killed, or out of memory or room; it goes where the
    block raises what the same command would raise again.

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
    try:
        yield folder
    except KeyboardInterrupt as interrupt:
        if any(folder.glob("[!.]*.h5")):
            raise BegunInterrupt from interrupt
        remove_unfinished(out)
        raise
    except ShortageError:
        raise
    except DreamforgeError:
        remove_unfinished(out)
        raise


def remove_unfinished(out: Path) -> None:
    """Remove what an interrupted command has left for ``out``; nothing else may have that name."""
    shutil.rmtree(unfinished_of(out), ignore_errors=True)


def read_kept(
    shard: Path, attributes: Mapping[str, Any], start: int, num_images: int
) -> DreamBatch | None:
    """Return the rows of a shard that an interrupted command has left; None if there is none.

    Args:
        shard: Where it would be.
        attributes: Those that it would have been written with.
        start: Number of its first row.
        num_images: How many it would hold.
    """
    if shard.is_symlink() or not shard.is_file():
        return None
    try:
        found = read_shard_attributes(shard)
        dreams = read_shard(shard)
        synthesis = parse_json(str(found.get("synthesis")).encode())
    except DreamSetError:  # damaged since: it is made again
        return None
    same = {**found, "synthesis": synthesis}
    if any(same.get(name) != value for name, value in attributes.items()):
        return None
    is_it = len(dreams) == num_images and int(dreams.batch[0]) == start
    return dreams if is_it else None


def _note(folder: Path) -> str | None:
    try:
        return (folder / _NOTE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
