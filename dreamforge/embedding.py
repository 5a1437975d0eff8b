"""A teacher inside its set: whoever gets the set needs nothing else."""

from dataclasses import replace
from pathlib import Path

from shared.checkpoint import to_safetensors
from shared.spec import TeacherSpec
from shared.teacher import Teacher


def recorded(teacher: Teacher, *, embed: bool) -> tuple[TeacherSpec, bytes | None]:
    """Return what an index says of a teacher and, where it is to hold it, its weights.

    Args:
        teacher: On any device.
        embed: Whether the weights go into the index. The path of the teacher's file is then left
            out but for its name: nobody will look there, and folders' names stay at home.
    """
    spec = teacher.spec
    if not embed:
        return spec, None
    if spec.path is not None:
        spec = replace(spec, path=Path(spec.path).name)
    return spec, to_safetensors(teacher.network, spec.to_json())
