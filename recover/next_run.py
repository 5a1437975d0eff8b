"""A run in the place of a finished one, which stays until the new one is finished, too.

The new run works in a hidden folder inside the run's folder. Its results move out of it at the end,
the report last; a move that was cut short is ended by whoever comes next.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared.errors import DreamSetError
from shared.files import (
    fsync_folder,
    remove_link,
    remove_stale_temporaries,
    temporary_folder,
    write_json,
)
from shared.manifest import parse_json

NEXT_NAME = ".recover.next"
_BEGUN = "arguments.json"
_REPORT = "report.json"


def next_run(folder: Path) -> Path | None:
    """Return where the run works that is to take the place of the one in ``folder``, if any does.

    That is so from :func:`begin_next` until its report has moved out.
    """
    place = folder / NEXT_NAME
    if not _is_there(place):
        return None
    # Without arguments anybody could go on, and replace what nobody said may go.
    is_begun = (place / _REPORT).exists() or begun_with(place) is not None
    return place if is_begun else None


def begin_next(
    folder: Path, arguments: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Make a place for a run that is to take that of the one in ``folder``, and return it.

    It is there with all that is recorded of the run, or not at all.

    Args:
        folder: Of the run; no other one has begun in it.
        arguments: What decides the result; not empty.
        records: What else is known of it, by the name of its file.
    """
    place = folder / NEXT_NAME
    with temporary_folder(place) as new:
        for name, record in {**records, _BEGUN: arguments}.items():
            write_json(new / name, dict(record))
        new.rename(place)
    fsync_folder(folder)
    return place


def begun_with(place: Path) -> dict[str, Any] | None:
    """Return the arguments of the run that has begun in ``place``, None where nobody knows."""
    try:
        return dict(parse_json((place / _BEGUN).read_bytes())) or None
    except (OSError, DreamSetError, TypeError, ValueError):
        return None


def is_moving(folder: Path) -> bool:
    """Return whether files of the finished next run have begun to move out of their place."""
    place = next_run(folder)
    return place is not None and not (place / _BEGUN).exists()


def move_out(folder: Path, files: Sequence[str]) -> None:
    """Put the finished run's files into the place of the earlier run's.

    Args:
        folder: Of the run.
        files: Names of what a run can have there, the report last. What only the earlier run has
            goes.
    """
    place = folder / NEXT_NAME
    if (place / _BEGUN).exists():  # nothing has moved yet
        for name in files:
            if not (place / name).exists():
                (folder / name).unlink(missing_ok=True)
        (place / _BEGUN).unlink()
    for name in files:
        if (place / name).exists():
            (place / name).replace(folder / name)
    fsync_folder(folder)
    shutil.rmtree(place)


def discard_next(folder: Path) -> None:
    """Remove a run that was to take the place of the one in ``folder``, which stays."""
    place = folder / NEXT_NAME
    remove_stale_temporaries(place)
    remove_link(place)
    if place.exists():
        shutil.rmtree(place)


def clear_next(folder: Path) -> None:
    """Remove what a process that was killed here left, but for anything that could be a run."""
    remove_stale_temporaries(folder / NEXT_NAME)
    with suppress(OSError):  # it is not there, or not empty
        (folder / NEXT_NAME).rmdir()


def _is_there(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink()
