"""One recovery run in several processes, as torchrun starts them: data parallel.

The first process is the run: it prunes, judges, saves and reports. The others follow: they take
their part of every batch, and change their copy of the student as the first one changes its own.
"""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from recover.config import RecoverConfig
from recover.course import distill
from recover.distill import Distillation
from recover.journal import Journal
from recover.masks import dense_masks
from recover.pipeline import new_distillation
from recover.preparation import prepare
from shared.begun import begun
from shared.device import resolve_device
from shared.distributed import ALONE, Group, join, leave, one_voice
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.progress import ignore_progress
from shared.teacher import Teacher
from shared.workers import find_worker


@contextmanager
def launched_group(config: RecoverConfig) -> Iterator[tuple[Group, RecoverConfig]]:
    """Yield the processes that a launcher started, and the config with this one's device.

    A process that is alone gets both as they are. Of several that fail in the block, one says why.

    Raises:
        ConfigError: If the launcher's environment makes no sense, or the device is not there.
    """
    worker, local_rank = find_worker(None)
    if worker.count == 1:
        yield ALONE, config
        return
    with one_voice() as store:
        device = resolve_device(config.device, local_rank)
        if config.device.startswith("cuda:"):
            raise ConfigError(
                f"--device {config.device}: found {worker.count} processes, expected one; "
                "with --device cuda each takes its own"
            )
        group = join(store, worker, device)
        yield group, dataclasses.replace(config, device=str(device))
        leave(group)


def follow(
    config: RecoverConfig,
    teacher: Teacher,
    dreams: DreamSet,
    group: Group,
    *,
    allow_teacher_mismatch: bool = False,
) -> None:
    """Do this process's part of the run that the first one does; write nothing.

    Args:
        config: The same as the first one's, but for the device.
        teacher: Of the run.
        dreams: Of the run.
        group: All processes.
        allow_teacher_mismatch: As the first one was told.

    Raises:
        As :func:`recover.pipeline.recover_student`, and a DreamforgeError if another process ends.
    """
    setup = prepare(
        config, teacher, dreams, allow_teacher_mismatch=allow_teacher_mismatch, group=group
    )

    def begin(config: RecoverConfig) -> Distillation:
        student = copy.deepcopy(setup.origin.network)
        again = dataclasses.replace(setup, config=config)
        return new_distillation(again, student, dense_masks(student))

    with begun():  # the first process has
        distill(
            begin(setup.config),
            again=begin,
            journal=Journal(None),  # the first process keeps it
            save=lambda run: None,
            progress=ignore_progress,
        )
