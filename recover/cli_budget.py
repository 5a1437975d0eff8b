"""``--budget``: what ``recover run`` and ``recover sweep`` make of it, and say about it."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recover.config import RecoverConfig
from shared.cli import format_duration, say
from shared.errors import ConfigError

if TYPE_CHECKING:
    from recover.budget import BudgetedSteps
    from recover.preparation import Setup
    from shared.evaldata import EvalData

BUDGET = click.option(
    "--budget",
    metavar="TIME",
    help="choose --steps such that all of it fits into this time: 10m, 90s, 2h, 600 (seconds)",
)


class Budget:
    """The time that the user gave, from the moment this is made.

    Attributes:
        seconds: In all; None without ``--budget``.

    Args:
        text: As given.
        steps: What ``--steps`` is, None if it was not given.

    Raises:
        ConfigError: If both are given, or the text is no time.
    """

    def __init__(self, text: str | None, steps: int | None) -> None:
        self._started = time.monotonic()
        self._write: Callable[[], None] | None = None
        self.seconds: float | None = None
        if text is None:
            return
        from recover.budget import parse_budget

        self.seconds = parse_budget(text)
        if steps is not None:
            raise ConfigError(
                f"--budget {text}: found --steps {steps}, too; expected one of them, since the "
                "budget chooses the steps"
            )

    def fit(
        self,
        setup: "Setup",
        folder: Path,
        eval_data: "EvalData | None",
        *,
        num_levels: int | None = None,
        overwrite: bool = False,
        write: bool = True,
    ) -> RecoverConfig:
        """Return the setup's config with as many steps as fit; say on stderr what was chosen.

        Args:
            setup: See :func:`recover.budget.choose_steps`, as for the rest.
            folder: Likewise.
            eval_data: Likewise.
            num_levels: Likewise.
            overwrite: Choose anew; unless nothing is written, the run begins here once that is
                done, so it must not overwrite any more. Of a sweep nothing begins, and the record
                is left to :meth:`write`.
            write: Likewise.
        """
        assert self.seconds is not None
        from recover.budget import choose_steps, record_of
        from recover.folder import RunFolder
        from recover.preparation import inputs_of, run_arguments

        replaces = overwrite and write and setup.group.leads
        if replaces and num_levels is None:
            RunFolder(folder, {}, inputs_of(setup)).refuse_finished(overwrite=True)
        choice = choose_steps(
            setup,
            folder,
            self.seconds,
            eval_data=eval_data,
            spent=time.monotonic() - self._started,
            num_levels=num_levels,
            fresh=overwrite,
            write=write and not overwrite,
        )
        if setup.group.leads:
            say(f"recover: {remark(choice, is_sweep=num_levels is not None)}")
        config = setup.config
        if choice.steps == 0 and config.importance == "fisher":  # which needs steps to go by
            config = dataclasses.replace(config, importance="magnitude")
        config = dataclasses.replace(config, steps=choice.steps)
        if replaces:
            record = record_of(choice, setup, eval_data, is_sweep=num_levels is not None)
            chosen = dataclasses.replace(setup, config=config)
            run = RunFolder(folder, run_arguments(chosen, eval_data), inputs_of(setup))
            if num_levels is None:
                run.promise(record)
            else:
                self._write = partial(_write, run.budget, record)
        return config

    def write(self) -> None:
        """Replace the record of a sweep that is overwritten, now that it is certain to be."""
        if self._write is not None:
            self._write()


def _write(path: Path, record: dict[str, Any]) -> None:
    from shared.files import make_folder_of, write_json

    make_folder_of(path)
    write_json(path, record)


def remark(choice: "BudgetedSteps", *, is_sweep: bool = False) -> str:
    """Return what was chosen, and what a longer run might bring, as one line."""
    from recover.budget import MOST_STEPS

    each = " for every level" if is_sweep else ""
    usual = f"the usual {choice.usual_steps:,} take {format_duration(choice.seconds_usual)}{each}"
    text = f"--budget {format_duration(choice.budget)}: "
    if choice.is_recorded:
        return f"{text}goes on with the {choice.steps:,} steps{each} that an earlier call chose"
    if choice.steps == 0:
        least = format_duration(choice.seconds_least)
        return (
            f"{text}too short to distil, which takes {least}{each} at least: prunes and repairs "
            f"only (0 steps); {usual}, and recover far more"
        )
    text += f"{choice.steps:,} steps, about {format_duration(choice.seconds)}{each} with judging; "
    if choice.steps < choice.usual_steps:
        return f"{text}{usual}, and usually recover more"
    if choice.steps >= MOST_STEPS:
        return f"{text}no more are chosen; --steps takes any number"
    return f"{text}{usual}"
