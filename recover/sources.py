"""Where the teacher of a dream set is, when nobody says."""

import os
from pathlib import Path
from typing import Any

from shared.checkpoint import checkpoint_from_bytes
from shared.dreamset import DreamSet
from shared.errors import CheckpointError, ConfigError
from shared.manifest import printable
from shared.teacher import Teacher, load_teacher, teacher_from_checkpoint


def find_teacher(dreams: DreamSet, path: Path | None, **options: Any) -> Teacher:
    """Return the teacher at ``path``, else the embedded one, else the one at the recorded path.

    Args:
        dreams: What its manifest records of the teacher fills in what a checkpoint does not say.
        path: Of a checkpoint, or None.
        **options: Those of :func:`shared.teacher.teacher_from_checkpoint`.

    Raises:
        CheckpointError: If the weights cannot be used.
        ConfigError: If there are none.
    """
    recorded = dreams.manifest.teacher
    if path is not None:
        return load_teacher(path, spec=recorded, **options)
    found = _teacher_at_hand(dreams, options)
    if found is not None:
        return found
    raise ConfigError(
        f"{dreams.path}: no embedded teacher, and none at the recorded path "
        f"({printable(recorded.path or 'none recorded')}); pass it with --teacher"
    )


def find_answering_teacher(
    dreams: DreamSet, **options: Any
) -> tuple[Teacher | None, tuple[str, ...]]:
    """Return the teacher whose answers the dreams hold, if it is at hand, and remarks.

    Nobody asked for it, and those answers do without it: one that cannot be used is no error.

    Args:
        dreams: The set.
        **options: As for :func:`find_teacher`.

    Raises:
        ConfigError: If an option makes no sense.
    """
    try:
        found = _teacher_at_hand(dreams, options)
    except CheckpointError as error:
        return None, (f"the teacher of {dreams.path} is not asked: {error}",)
    if found is None or found.spec.fingerprint == dreams.manifest.teacher.fingerprint:
        return found, ()
    return None, (
        f"the teacher of {dreams.path} is not asked: {found.spec.path or 'the embedded one'} has "
        f"other weights by now, fingerprint {found.spec.fingerprint[:12]}",
    )


def _teacher_at_hand(dreams: DreamSet, options: dict[str, Any]) -> Teacher | None:
    """Return the embedded teacher, else the one at the recorded path, None without either."""
    recorded = dreams.manifest.teacher
    blob = dreams.teacher_blob()
    if blob is not None:
        checkpoint = checkpoint_from_bytes(blob, f"{dreams.path} (embedded teacher)")
        return teacher_from_checkpoint(checkpoint, spec=recorded, **options)
    if recorded.path is None:
        return None
    # As it was given to dreamforge: relative to the folder of that command, perhaps of the set.
    for path in (Path(recorded.path), dreams.path.parent / recorded.path):
        # Path.is_file raises where the name is too long for any file, or a folder is not ours.
        if os.path.isfile(path):  # noqa: PTH113
            return load_teacher(path, spec=recorded, **options)
    return None
