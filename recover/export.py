"""The student on disk: the dense network's own tensor names, and JSON metadata beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from recover.masks import Masks
from shared.checkpoint import load_checkpoint, save_network
from shared.errors import IncompatibleError
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
    path: Path, network: nn.Module, masks: Masks, teacher: TeacherSpec, facts: dict[str, Any]
) -> None:
    """Write ``network`` atomically as safetensors that any tool can read.

    Args:
        path: Of the file.
        network: The student; its pruned weights are zero, which is asserted.
        masks: What is pruned.
        teacher: Whose architecture, classes and preprocessing the student shares.
        facts: JSON for the ``recover`` part of the metadata.
    """
    masks.check(network)
    metadata = {
        **teacher.to_json(),
        "fingerprint": fingerprint(network),
        "path": None,
        "recover": {
            "num_weights": masks.num_weights,
            "num_kept": masks.num_kept,
            "teacher_fingerprint": teacher.fingerprint,
            **facts,
        },
    }
    save_network(path, network, metadata)


def load_student(path: Path) -> Student:
    """Return the student saved at ``path``.

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
    return Student(classifier=teacher_from_checkpoint(checkpoint), facts=facts)
