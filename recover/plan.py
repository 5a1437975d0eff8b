"""What a run would do and cost, from three real steps on the real machine."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from recover.beginning import pruned_copy, start_of_distillation
from recover.distill import Distillation
from recover.masks import Masks
from recover.pipeline import new_distillation
from recover.preparation import Setup
from shared.device import describe_device, peak_num_bytes, reset_peak_memory, synchronize

NUM_TIMED_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """The resolved plan of a run.

    Attributes:
        architecture: The teacher's.
        student: The student's architecture.
        num_classes: Of both.
        image_shape: ``(C, H, W)``.
        num_weights: Prunable weights.
        num_kept: How many of them stay.
        num_train: Dreams to train on.
        num_held_out: Dreams to measure agreement on.
        num_unlabeled: Real images to train on, too.
        num_unlabeled_per_batch: How many of them a batch has.
        steps: Distillation steps.
        seconds_per_step: The fastest of the timed ones.
        seconds: Of all steps; judging comes on top.
        peak_num_bytes: Memory: of the device's allocator on CUDA, of the process on the CPU.
        device: Its name.
        config: The resolved config.
        warnings: One sentence each.
    """

    architecture: str
    student: str
    num_classes: int
    image_shape: tuple[int, int, int]
    num_weights: int
    num_kept: int
    num_train: int
    num_held_out: int
    num_unlabeled: int
    num_unlabeled_per_batch: int
    steps: int
    seconds_per_step: float
    seconds: float
    peak_num_bytes: int
    device: str
    config: dict[str, Any]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return dataclasses.asdict(self)


def plan_recovery(setup: Setup) -> RecoveryPlan:
    """Return the plan of the run that ``setup`` describes; nothing is written.

    Raises:
        IncompatibleError: If the network has nothing to prune.
    """
    config, spec = setup.config, setup.teacher.spec
    run, masks = rehearsal(setup)
    seconds_per_step = _time_steps(run, setup) if config.steps else 0.0
    return RecoveryPlan(
        architecture=spec.architecture,
        student=setup.origin.spec.architecture,
        num_classes=spec.num_classes,
        image_shape=spec.image_shape,
        num_weights=masks.num_weights,
        num_kept=masks.num_kept,
        num_train=len(setup.split.train),
        num_held_out=len(setup.split.held_out),
        num_unlabeled=0 if setup.unlabeled is None else len(setup.unlabeled.images),
        num_unlabeled_per_batch=setup.num_unlabeled_per_batch,
        steps=config.steps,
        seconds_per_step=seconds_per_step,
        seconds=seconds_per_step * config.steps,
        peak_num_bytes=peak_num_bytes(setup.device),
        device=describe_device(setup.device),
        config=config.to_json(),
        warnings=setup.warnings,
    )


def rehearsal(setup: Setup) -> tuple[Distillation, Masks]:
    """Return a run on copies that can be timed and thrown away, and the masks it would end with.

    Raises:
        IncompatibleError: If the network has nothing to prune.
    """
    pruned, final = pruned_copy(setup.origin, setup.config)
    student, masks = start_of_distillation(setup.config, setup.origin, pruned, final)
    reset_peak_memory(setup.device)
    return new_distillation(setup, student, masks), final


def _time_steps(run: Distillation, setup: Setup) -> float:
    """Return the seconds of the fastest step; a first one, which sets things up, is not counted."""
    seconds = []
    for _ in range(1 + NUM_TIMED_STEPS):
        synchronize(setup.device)
        started = time.perf_counter()
        run.advance()
        synchronize(setup.device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
