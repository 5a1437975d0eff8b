"""The course of a run: its steps to the last, with rows, checkpoints, signals, and a slower start.

A rate that suits nearly all networks destroys some: logits in the hundreds make gradients that are
hundreds of times as long. Such a run starts again from the first step at a quarter of the rate.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping

from recover.config import RecoverConfig
from recover.distill import Distillation, DivergedError
from recover.interrupt import interrupts_deferred
from recover.journal import Journal
from shared.progress import Progress, ProgressCallback

STEPS_PER_ROW = 50  # between two rows of metrics.jsonl: the only waits for the device
SECONDS_PER_REPORT = 1.0  # between two reports of progress
RATE_DIVISOR = 4.0
MOST_RESTARTS = 5  # to a thousandth of the rate: who needs less has another trouble


def distill(
    run: Distillation,
    *,
    again: Callable[[RecoverConfig], Distillation],
    journal: Journal,
    save: Callable[[Distillation], None],
    progress: ProgressCallback,
) -> Distillation:
    """Do the steps that are left, from the first one again at a lower rate where the loss diverges.

    All processes of a group see the same loss, so they start again together.

    Args:
        run: At its first step, or restored.
        again: Returns the run at its first step, with the config that it is given.
        journal: Gets a row of metrics every :data:`STEPS_PER_ROW` steps and at the end.
        save: Writes a checkpoint; called between steps every ``checkpoint_every`` seconds of the
            config, and after the last.
        progress: Told of the steps.

    Returns:
        The run that did the last step.

    Raises:
        DivergedError: If the loss is not finite at the lowest rate either.
        KeyboardInterrupt: After SIGINT or SIGTERM, between two steps, with a checkpoint written.
    """
    for _ in range(MOST_RESTARTS):
        try:
            take_steps(run, journal=journal, save=save, progress=progress)
        except DivergedError:
            lr = run.config.lr
            assert lr is not None, "a run's config is resolved"
            run = again(dataclasses.replace(run.config, lr=lr / RATE_DIVISOR))
            journal.rewind(0)
        else:
            return run
    take_steps(run, journal=journal, save=save, progress=progress)
    return run


def take_steps(
    run: Distillation,
    *,
    journal: Journal,
    save: Callable[[Distillation], None],
    progress: ProgressCallback,
) -> None:
    """Do the steps that are left of ``run``, as :func:`distill` does.

    Raises:
        DivergedError: If the loss is not finite; nothing is saved then.
        KeyboardInterrupt: As :func:`distill`.
    """
    run.begin()
    config = run.config
    saved = reported = time.monotonic()
    facts: dict[str, float] = {}
    with interrupts_deferred(patiently=run.group.count > 1) as interrupted:
        while run.step < config.steps:
            run.advance()
            finished = run.step == config.steps
            if finished or run.step % STEPS_PER_ROW == 0:
                row = run.row()
                journal.add(row)
                facts = {name: value for name, value in row.items() if name != "step"}
            stop = run.group.any(interrupted())
            now = time.monotonic()
            # The last one spares a run that is killed while it is judged all its steps.
            if finished or stop or now - saved >= config.checkpoint_every:
                if run.is_finite():  # if not, the next row ends it
                    save(run)
                saved = now
            if stop:
                run.group.wait()  # whoever leaves earlier makes torchrun end the others
                raise KeyboardInterrupt
            if finished or now - reported >= SECONDS_PER_REPORT:
                progress(_steps_done(run.step, config.steps, facts))
                reported = now
        if run.group.any(interrupted()):  # while the last step was saved and told of
            run.group.wait()
            raise KeyboardInterrupt


def lowered_rate_warnings(asked: RecoverConfig, run: Distillation) -> list[str]:
    """Return a sentence on the rate that the student was taught at, if it is not the one asked."""
    if run.config.lr == asked.lr:
        return []
    return [
        f"the loss did not stay finite at --lr {asked.lr:g}: the student was taught at "
        f"{run.config.lr:g}, from its first step on"
    ]


def _steps_done(step: int, num_steps: int, facts: Mapping[str, float]) -> Progress:
    return Progress(stage="distill", done=step, total=num_steps, unit="steps", facts=facts)
