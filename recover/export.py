"""The student on disk: the dense network's own tensor names, and JSON metadata beside them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from recover.folder import RunFolder
from recover.masks import Masks
from recover.values import config_of
from shared.architectures import is_factory
from shared.checkpoint import load_checkpoint, save_network
from shared.errors import CheckpointError, IncompatibleError
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint, teacher_from_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A saved student: a classifier like any other, and how it came to be.

    Attributes:
        classifier: The network, in eval mode on the CPU, with its preprocessing.
        facts: The ``recover`` part of the file's metadata (sparsity, teacher, dreams, config).
    """

    classifier: Teacher
    facts: dict[str, Any]


def save_student(
    path: Path, network: nn.Module, masks: Masks, origin: TeacherSpec, facts: dict[str, Any]
) -> None:
    """Write ``network`` atomically as safetensors that any tool can read.

    Args:
        path: Of the file.
        network: The student; its pruned weights are zero, which is asserted.
        masks: What is pruned.
        origin: Whose architecture, classes and preprocessing the student shares: the teacher's,
            or that of another network it started as.
        facts: JSON for the ``recover`` part of the metadata.
    """
    masks.check(network)
    metadata = {
        **origin.to_json(),
        "fingerprint": fingerprint(network),
        "path": None,
        "recover": {
            "num_weights": masks.num_weights,
            "num_kept": masks.num_kept,
            **facts,
        },
    }
    save_network(path, network, metadata)


def facts_of_teacher(teacher: TeacherSpec) -> dict[str, Any]:
    """Return what a student's file says of its teacher."""
    return {
        "teacher_architecture": teacher.architecture,
        "teacher_fingerprint": teacher.fingerprint,
    }


def student_at(path: Path) -> Path:
    """Return the file of a student: ``path``, or that of the finished run in this folder."""
    return RunFolder.to_read(path).student if path.is_dir() else path


def load_student(path: Path, architecture: str | None = None) -> Student:
    """Return the student saved at ``path``.

    Args:
        path: Of the file.
        architecture: What to build; by default what the file says, unless that is code to import.

    Raises:
        CheckpointError: If the file is no usable checkpoint.
        IncompatibleError: If it is one, but not of a student made here.
    """
    checkpoint = load_checkpoint(path)
    facts = checkpoint.metadata.get("recover")
    if not isinstance(facts, dict):
        raise IncompatibleError(
            f"{path}: no student of recover (no such metadata in it); expected student.safetensors"
        )
    try:
        config_of(facts.get("config", {}))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path}: damaged, or no student of recover (its config: {error}); repeat its run"
        ) from error
    recorded = checkpoint.metadata.get("architecture")
    if architecture is None and isinstance(recorded, str) and is_factory(recorded):
        raise IncompatibleError(
            f"{path}: architecture recorded as {recorded[:80]!r}, which is code to import; where "
            f"you trust it, pass --student {recorded[:80]}"
        )
    classifier = teacher_from_checkpoint(checkpoint, architecture=architecture)
    return Student(classifier=classifier, facts=facts)


def teacher_beside(student: Student) -> TeacherSpec:
    """Return what the student's file tells of its teacher: all but the architecture is shared."""
    own = student.classifier.spec
    architecture = student.facts.get("teacher_architecture")
    if not isinstance(architecture, str) or not architecture:
        return own
    return dataclasses.replace(own, architecture=architecture)
