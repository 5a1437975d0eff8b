"""Where the teacher of a dream set is, when nobody says."""

from pathlib import Path
from typing import Any

from shared.checkpoint import checkpoint_from_bytes
from shared.dreamset import DreamSet
from shared.errors import ConfigError
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
    blob = dreams.teacher_blob()
    if blob is not None:
        checkpoint = checkpoint_from_bytes(blob, f"{dreams.path} (embedded teacher)")
        return teacher_from_checkpoint(checkpoint, spec=recorded, **options)
    if recorded.path is not None and Path(recorded.path).is_file():
        return load_teacher(recorded.path, spec=recorded, **options)
    raise ConfigError(
        f"{dreams.path}: no embedded teacher, and none at the recorded path "
        f"({recorded.path or 'none recorded'}); pass it with --teacher"
    )
