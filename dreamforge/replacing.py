"""A new set takes the place of an old one, which is there until the new one is whole.

The new set is written into a hidden folder beside it, which is renamed when it is finished. From
then on the new set wins: whoever writes at this place next ends what a killed process has begun.
Between the two there is a moment without an index only where their shards have the same names.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dreamforge.overwrite import refuse_sources, refuse_to_lose, shards_at
from dreamforge.signing import remove_signature
from dreamforge.unfinished import remove_unfinished, unfinished_folder
from shared.errors import ConfigError, DreamSetError
from shared.files import (
    fsync_folder,
    make_folder_of,
    naming,
    next_of,
    remove_link,
    remove_stale_temporaries,
    temporary_folder,
)
from shared.lock import alone_with
from shared.manifest import shard_names
from shared.shards import read_index


@contextmanager
def new_set(
    out: Path,
    *,
    overwrite: bool,
    planned: Sequence[str] = (),
    sources: Sequence[Path] = (),
    rows: str | None = None,
) -> Iterator[Path]:
    """Yield where to write the index of a new set, its shards beside it; then move all to ``out``.

    When the block raises, everything is as it was, but for what waits to be gone on with (see
    :mod:`dreamforge.unfinished`). Of two processes at one place the second is refused: shards of
    the same names would mix.

    Args:
        out: Of the index.
        overwrite: Whether a set that is there may go.
        planned: Names of the shards that will be written.
        sources: Files that the set is made from.
        rows: What decides the rows, of a set that goes on after an interruption; None: it does not.

    Raises:
        ConfigError: As :func:`refuse_taken`, before the block, and after it again.
        DreamSetError: As :func:`finish_replacing`.
        DreamforgeError: If another process is making a set there.
    """
    make_folder_of(out)
    with _alone_at(out):
        _finish(out)
        refuse_taken(out, overwrite=overwrite, planned=planned, sources=sources)
        remove_stale_temporaries(out, *(out.with_name(name) for name in planned))
        place = temporary_folder(out) if rows is None else unfinished_folder(out, rows)
        with place as folder:
            yield folder / out.name
            refuse_taken(out, overwrite=overwrite, planned=planned, sources=sources)
            folder.rename(next_of(out))
            fsync_folder(out.parent)
        _move(out)
        remove_unfinished(out)  # of other rows: this is the set that is wanted now


def refuse_taken(
    out: Path, *, overwrite: bool, planned: Sequence[str] = (), sources: Sequence[Path] = ()
) -> None:
    """Raise ConfigError if something is at ``out`` that may not go; touch nothing.

    Args:
        out: Of the index.
        overwrite: Whether the set at ``out`` may go, as nothing else ever may.
        planned: Names of the shards that will be written.
        sources: Files that the set is made from: neither ``out`` nor a shard may be one of them.
    """
    shards = shards_at(out)
    if not overwrite and (out.exists() or shards):
        found = out if out.exists() else shards[0]
        raise ConfigError(f"{found}: is there already; choose another --out, or --overwrite")
    refuse_sources([out, *(out.with_name(name) for name in planned), *shards], sources)
    refuse_to_lose(out, shards)


def finish_replacing(out: Path) -> None:
    """Put the new set into its place, where a process was killed that was about to.

    Raises:
        DreamSetError: If what lies there to be moved is no such set.
        DreamforgeError: If another process is making a set there.
        ConfigError: As :func:`dreamforge.overwrite.refuse_to_lose`.
    """
    if _waits(out):
        with _alone_at(out):
            _finish(out)


def _waits(out: Path) -> bool:
    folder = next_of(out)
    return folder.is_dir() and not folder.is_symlink()


@contextmanager
def _alone_at(out: Path) -> Iterator[None]:
    """Keep other processes from making a set at ``out``, and from ending the move of one."""
    busy = (
        f"{out}: another process is making a set there; wait until it is done, or choose another "
        "--out"
    )
    lock = out.with_name(f".{out.name}.lock")
    with ExitStack() as stack:
        with naming(out, lock):
            stack.enter_context(alone_with(lock, busy))
        yield


def _finish(out: Path) -> None:
    remove_link(next_of(out))
    if not _waits(out):
        return
    if any(not path.name.startswith(".") for path in next_of(out).iterdir()):
        _shards_of(next_of(out) / out.name, out)
    refuse_to_lose(out, shards_at(out))
    _move(out)


def _move(out: Path) -> None:
    """Move the set that waits beside ``out``, or what is left of it there, index last."""
    folder = next_of(out)
    if (index := folder / out.name).exists():
        names = _shards_of(index, out)
        waiting = [name for name in names if (folder / name).exists()]
        if any(out.with_name(name).exists() for name in waiting):
            out.unlink(missing_ok=True)  # it would vouch for shards that are not its own
        for name in waiting:
            (folder / name).replace(out.with_name(name))
        remove_signature(out)
        index.replace(out)
        fsync_folder(out.parent)
    if out.exists():
        kept = _shards_of(out, out)
        for path in shards_at(out):
            if path.name not in kept:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder)


def _shards_of(index: Path, out: Path) -> tuple[str, ...]:
    """Return the names of a new set's shards: those that a set at ``out`` has, or none."""
    try:
        names = tuple(shard.name for shard in read_index(index).manifest.shards)
    except DreamSetError as error:
        raise DreamSetError(f"{error}; remove {next_of(out)} if nobody writes there") from error
    if names and names != shard_names(out, len(names)):
        raise DreamSetError(
            f"{next_of(out)}: holds shards of other names than {out.name} has; remove it"
        )
    return names
