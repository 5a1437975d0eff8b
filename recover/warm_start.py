"""A level of a sweep that starts from the student of the level before, not from the teacher.

That student has been taught already, and its zeros stay zeros, its channels gone: the way to the
next level is shorter. Levels then depend on each other, so they run one after another.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from recover.channels import slimming_of
from recover.config import RecoverConfig
from recover.export import load_student
from recover.importance import prunable_weights
from recover.masks import Masks
from recover.preparation import Setup
from shared.errors import IncompatibleError


def with_start(setup: Setup, student: Path) -> Setup:
    """Return the setup of a run whose student starts as a copy of a saved one.

    Args:
        setup: Its config's ``warm_start`` is the sparsity of that student, or what it has of the
            channels.
        student: File of it; its architecture, classes and preprocessing are the origin's.

    Raises:
        CheckpointError: If the file is no usable checkpoint.
        IncompatibleError: If it is no student of this teacher at that level.
    """
    origin = setup.origin
    found = load_student(student, origin.spec.architecture)
    kind = "sparsity" if setup.config.channels is None else "channels"
    expected = {
        kind: setup.config.warm_start,
        "teacher_fingerprint": setup.teacher.spec.fingerprint,
    }
    for name, value in expected.items():
        if found.facts.get(name) != value:
            raise IncompatibleError(
                f"{student}: found {name.replace('_', ' ')} {found.facts.get(name)}, expected "
                f"{value} to start from; run that level again with --overwrite"
            )
    network = found.classifier.network.to(setup.device)
    start = dataclasses.replace(origin, network=network)
    if setup.config.channels is None:
        return dataclasses.replace(setup, origin=start)
    slimming = slimming_of(setup.teacher, setup.config)
    assert slimming is not None
    if not slimming.restore_record(found.facts.get("channels_left"), network):
        raise IncompatibleError(
            f"{student}: found no record of the teacher's channels that are left in it, expected "
            "one to start from; run that level again with --overwrite"
        )
    return dataclasses.replace(setup, origin=start, channels_left=slimming.state())


def masks_of_zeros(network: nn.Module) -> Masks:
    """Return the masks that keep every prunable weight that is not zero."""
    kept = {
        # In the weight's memory format, as recover.masks has it.
        name: torch.empty_like(weight, dtype=torch.bool, requires_grad=False).copy_(weight != 0)
        for name, weight in prunable_weights(network).items()
    }
    return Masks(kept, sum(int(mask.sum()) for mask in kept.values()))


def warm_starts(configs: Sequence[RecoverConfig]) -> tuple[RecoverConfig, ...]:
    """Return the levels' configs, the least pruned first, each starting from the one before.

    The first one starts from the teacher, whose sparsity is 0, and which has all of its channels.
    """
    starts = [
        *([0.0] if configs[0].channels is None else [1.0]),
        *(c.sparsity if c.channels is None else c.channels for c in configs[:-1]),
    ]
    return tuple(
        dataclasses.replace(config, warm_start=start)
        for start, config in zip(starts, configs, strict=True)
    )
