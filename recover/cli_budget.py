"""``--budget``: what ``recover run`` and ``recover sweep`` make of it, and say about it."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recover.config import RecoverConfig
from shared.cli import format_duration, say
from shared.errors import ConfigError
from shared.workers import speaks_for_all

if TYPE_CHECKING:
    from recover.budget import BudgetedSteps
    from recover.preparation import Setup
    from shared.evaldata import EvalData
    from shared.workers import Worker

BUDGET = click.option(
    "--budget",
    metavar="TIME",
    help="choose --steps such that all of it fits into this time: 10m, 90s, 2h, 600 (seconds)",
)


class Budget:
    """The time that the user gave, from the moment this is made.

    Attributes:
        seconds: In all; None without ``--budget``.
        warnings: For the reports, once something was chosen.

    Args:
        text: As given.
        steps: What ``--steps`` is, None if it was not given.

    Raises:
        ConfigError: If both are given, or the text is no time.
    """

    def __init__(self, text: str | None, steps: int | None) -> None:
        self._started = time.monotonic()
        self._of_sweep: tuple[Path, dict[str, Any], bool] | None = None  # where, what, to replace
        self.seconds: float | None = None
        self.warnings: tuple[str, ...] = ()
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
                done, so it must not overwrite any more.
            write: Likewise. Of a sweep nothing begins and nothing is written: that is left to
                :meth:`settle`, since its levels may yet be refused.
        """
        assert self.seconds is not None
        from recover.budget import choose_steps, record_of
        from recover.folder import RunFolder
        from recover.preparation import inputs_of, run_arguments

        is_sweep = num_levels is not None
        replaces = overwrite and write and setup.group.leads and not is_sweep
        if replaces:
            RunFolder(folder, {}, inputs_of(setup)).refuse_finished(overwrite=True)
        choice = choose_steps(
            setup,
            folder,
            self.seconds,
            eval_data=eval_data,
            spent=time.monotonic() - self._started,
            num_levels=num_levels,
            fresh=overwrite,
            write=write and not overwrite and not is_sweep,
        )
        self.warnings = exceeded(choice)
        if speaks_for_all():
            say(f"recover: {remark(choice, is_sweep=is_sweep)}")
        config = setup.config
        if choice.steps == 0 and config.importance == "fisher":  # which needs steps to go by
            config = dataclasses.replace(config, importance="magnitude")
        config = dataclasses.replace(config, steps=choice.steps)
        record = record_of(choice, setup, eval_data, is_sweep=is_sweep)
        if replaces:
            chosen = dataclasses.replace(setup, config=config)
            run = RunFolder(folder, run_arguments(chosen, eval_data), inputs_of(setup))
            run.promise(record)
        if is_sweep and not choice.is_recorded:
            self._of_sweep = RunFolder(folder, {}).budget, record, overwrite
        return config

    def settle(self) -> bool:
        """Record what was chosen for a sweep, now that it is certain to run.

        Returns:
            Whether it holds. Of workers that choose at the same time the first one chooses for all.
        """
        if self._of_sweep is None:
            return True
        from shared.files import make_folder_of, write_json, write_json_once

        path, record, replaces = self._of_sweep
        make_folder_of(path)
        if not replaces:
            return write_json_once(path, record)
        write_json(path, record)
        return True


def refuse_to_overwrite(me: "Worker", *, overwrite: bool) -> None:
    """Raise ConfigError where several workers would replace a sweep, with a budget each."""
    if overwrite and me.count > 1:
        raise ConfigError(
            f"--budget: found --overwrite and {me.count} workers, of which each would choose other "
            "steps; expected one worker, or an --out that is not there yet"
        )


def exceeded(choice: "BudgetedSteps") -> tuple[str, ...]:
    """Return a sentence for the reports where even no step takes longer than there is time."""
    if not choice.is_exceeded:
        return ()
    return (
        f"--budget {format_duration(choice.budget)}: found that loading, repair and judging alone "
        f"take about {format_duration(choice.seconds_without)}; they were done, with 0 steps, and "
        "took longer than the budget",
    )


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
        all_the_same = ""
        if choice.is_exceeded:
            without = format_duration(choice.seconds_without)
            all_the_same = f", which takes about {without}, longer than the budget"
        return (
            f"{text}too short to distil, which takes {least}{each} at least: prunes and repairs "
            f"only (0 steps){all_the_same}; {usual}, and recover far more"
        )
    text += f"{choice.steps:,} steps, about {format_duration(choice.seconds)}{each} with judging; "
    if choice.steps < choice.usual_steps:
        return f"{text}{usual}, and usually recover more"
    if choice.steps >= MOST_STEPS:
        return f"{text}no more are chosen; --steps takes any number"
    return f"{text}{usual}"
