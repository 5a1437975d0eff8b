"""Which student a level of a sweep starts from: mostly that of the level below.

Zeros stay zeros from level to level, and too many of them may be in one place. Over the whole
network (``--allocation global``) some layers lose nearly all of their weights; a level that
compares weights within their layer (``lamp``, from 97 % on) would leave them more, but cannot give
any back: a bottleneck for good. Such a level starts from the sparsest student that has enough
everywhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from recover.allocation import choose_masks
from recover.config import RecoverConfig
from recover.export import load_student
from recover.importance import prunable_weights
from recover.preparation import resolved
from shared.teacher import Teacher

ENOUGH = 2 / 3  # of the weights that the level would leave to a layer of the teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a level starts from.

    Attributes:
        config: The level's, with the start's sparsity as ``warm_start``.
        student: File of the student; None of the teacher.
        remarks: Why it is not the level below, if it is not.
    """

    config: RecoverConfig
    student: Path | None
    remarks: tuple[str, ...] = ()


def is_choosy(config: RecoverConfig, below: RecoverConfig, teacher: Teacher) -> bool:
    """Return whether a level has to look at the students below before it starts from one.

    Args:
        config: Of the level.
        below: Of the level below it.
        teacher: Of both.
    """
    if config.warm_start is None or config.channels is not None or config.student is not None:
        return False
    return resolved(config, teacher).allocation != resolved(below, teacher).allocation


def choose_start(
    config: RecoverConfig, below: Sequence[tuple[RecoverConfig, Path]], teacher: Teacher
) -> Start:
    """Return what a level starts from: the same at every call, while the students are the same.

    Args:
        config: Of the level; it starts from the teacher unless its ``warm_start`` is a number.
        below: Configs and students' files of the levels below, the least pruned first.
        teacher: Of all of them.

    Raises:
        CheckpointError: If a student's file is no usable checkpoint.
        IncompatibleError: If it is none of a student.
    """
    if config.warm_start is None or not below:
        return Start(config=config, student=None)
    if not is_choosy(config, below[-1][0], teacher):
        return Start(config=config, student=below[-1][1])
    settled, remarks = resolved(config, teacher), list[str]()
    needed = choose_masks(teacher.network, settled, settled.sparsity).kept
    for other, path in reversed(below):
        student = load_student(path, teacher.spec.architecture).classifier.network
        starved = starved_layer(student, needed)
        if starved is None:
            start = dataclasses.replace(config, warm_start=other.sparsity)
            return Start(config=start, student=path, remarks=tuple(remarks))
        remarks.append(
            f"{100 * config.sparsity:.4g} % did not start from the student of "
            f"{100 * other.sparsity:.4g} %: only {starved}"
        )
    start = dataclasses.replace(config, warm_start=0.0)
    return Start(config=start, student=None, remarks=tuple(remarks))


def starved_layer(student: nn.Module, needed: Mapping[str, Tensor]) -> str | None:
    """Return in words which layer of ``student`` has too few weights; None where none has.

    Args:
        student: Of a level below, with the teacher's tensors.
        needed: Masks that the level would have of the teacher: what its layers need.
    """
    found = []
    for name, weight in prunable_weights(student).items():
        num_left, num_needed = int(weight.count_nonzero()), int(needed[name].sum())
        words = f"{num_left:,} weights are left in {name}, and it needs {num_needed:,}"
        found.append((num_left / max(num_needed, 1), words))
    share, words = min(found)
    return words if share < ENOUGH else None
