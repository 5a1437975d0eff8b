"""A level of a sweep that starts from the student of the level below, not from the teacher.

That student has been taught already, and its zeros stay zeros: the way to the next sparsity is
shorter. Levels then depend on each other, so they run one after another.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from recover.config import RecoverConfig
from recover.export import load_student
from recover.importance import prunable_weights
from recover.masks import Masks
from recover.preparation import Setup
from shared.errors import IncompatibleError


def with_start(setup: Setup, student: Path) -> Setup:
    """Return the setup of a run whose student starts as a copy of a saved one.

    Args:
        setup: Its config's ``warm_start`` is the sparsity of that student.
        student: File of it; its architecture, classes and preprocessing are the origin's.

    Raises:
        CheckpointError: If the file is no usable checkpoint.
        IncompatibleError: If it is no student of this teacher at that sparsity.
    """
    origin = setup.origin
    found = load_student(student, origin.spec.architecture)
    expected = {
        "sparsity": setup.config.warm_start,
        "teacher_fingerprint": setup.teacher.spec.fingerprint,
    }
    for name, value in expected.items():
        if found.facts.get(name) != value:
            raise IncompatibleError(
                f"{student}: found {name.replace('_', ' ')} {found.facts.get(name)}, expected "
                f"{value} to start from; run that level again with --overwrite"
            )
    network = found.classifier.network.to(setup.device)
    return dataclasses.replace(setup, origin=dataclasses.replace(origin, network=network))


def masks_of_zeros(network: nn.Module) -> Masks:
    """Return the masks that keep every prunable weight that is not zero."""
    kept = {
        # In the weight's memory format, as recover.masks has it.
        name: torch.empty_like(weight, dtype=torch.bool, requires_grad=False).copy_(weight != 0)
        for name, weight in prunable_weights(network).items()
    }
    return Masks(kept, sum(int(mask.sum()) for mask in kept.values()))


def warm_starts(configs: Sequence[RecoverConfig]) -> tuple[RecoverConfig, ...]:
    """Return the levels' configs, by ascending sparsity, each starting from the one before.

    The first one starts from the teacher, whose sparsity is 0.
    """
    starts = [0.0, *(config.sparsity for config in configs[:-1])]
    return tuple(
        dataclasses.replace(config, warm_start=start)
        for start, config in zip(starts, configs, strict=True)
    )
