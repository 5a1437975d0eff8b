"""How many steps fit into the time at hand: ``--budget``.

The number is chosen once, from the pace of real steps, and written into the run's folder before the
first of them: a run that was killed goes on with the same number, whatever the machine does by
then. The student depends on the number alone, so ``--steps`` with it makes the same student.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recover.config import RecoverConfig
from recover.folder import RunFolder, changed_arguments
from recover.pace import Pace, measure_pace
from recover.preparation import Setup, run_arguments
from shared.errors import ConfigError, DreamSetError, IncompatibleError, InputFileError
from shared.evaldata import EvalData
from shared.files import write_json_once
from shared.manifest import parse_json

# Fewer do harm: ResNet-20 at 90 %, repaired, had a score of 0.34; 25 steps 0.24, 50 steps 0.55.
LEAST_STEPS = 50
MOST_STEPS = 20_000  # more are a decision of the user's, not of a clock's
RESERVE = 0.05  # of the budget: for checkpoints, and for steps slower than the timed ones
MOST_WARM_UPS = 10  # a first step that takes longer than such a part is not timed again
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetedSteps:
    """What ``--budget`` chose.

    Attributes:
        budget: Seconds, as asked for.
        steps: Distillation steps of a run, or of each level of a sweep; 0: repair only.
        usual_steps: What it would be without a budget.
        seconds: Of one run with these steps, judging included.
        seconds_usual: Of one with the usual number.
        seconds_least: Of one with the fewest steps that are worth it.
        seconds_without: Of the whole command with no step at all: what had gone by, then repair and
            judging of every level. 0 in records of earlier versions.
        is_recorded: Whether an earlier call chose, and this one found it in the folder.
    """

    budget: float
    steps: int
    usual_steps: int
    seconds: float
    seconds_usual: float
    seconds_least: float
    seconds_without: float = 0.0
    is_recorded: bool = False

    @property
    def is_exceeded(self) -> bool:
        """Whether the time is too short even for no step."""
        return self.seconds_without > self.budget


def parse_budget(text: str) -> float:
    """Return the seconds of ``10m``, ``90s``, ``1.5h`` or ``600``.

    Raises:
        ConfigError: If it is anything else, or no time at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhd]?)", text.strip().lower(), re.ASCII)
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--budget: found {text!r}, expected a time such as 90s, 10m, 2h or 600")
    return seconds


def steps_within(seconds: float, pace: Pace, config: RecoverConfig) -> int:
    """Return the most steps that fit, as a number of two significant digits.

    At most :data:`MOST_STEPS`; 0 where fewer than :data:`LEAST_STEPS` would fit.

    Args:
        seconds: For one run with all that belongs to it.
        pace: Of its parts.
        config: Says how often the masks change.
    """
    low, high = 0, MOST_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        fits = pace.seconds(config, middle) <= seconds
        low, high = (middle, high) if fits else (low, middle - 1)
    steps = rounded_down(low)
    return steps if steps >= LEAST_STEPS else 0


def rounded_down(count: int) -> int:
    """Return 1,200 of 1,234: the two leading digits."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return count // unit * unit


def choose_steps(
    setup: Setup,
    folder: Path,
    budget: float,
    *,
    eval_data: EvalData | None,
    spent: float = 0.0,
    num_levels: int | None = None,
    fresh: bool = False,
    write: bool = True,
) -> BudgetedSteps:
    """Return how many steps to do: those that the folder records, else as many as fit.

    All processes of a group call this, and get what the first one chose. Workers that share a sweep
    may call it at the same time: the first to write chooses for all.

    Args:
        setup: Of the run, or of any level of the sweep. Its steps are those without a budget.
        folder: Of the run, or of the sweep.
        budget: Seconds for all of it.
        eval_data: To judge by, None without.
        spent: Seconds of the budget that are gone; the timing here comes on top.
        num_levels: Levels that one worker of a sweep runs one after another; None of a run.
        fresh: Whatever an earlier call recorded does not count.
        write: Record the choice.

    Raises:
        IncompatibleError: If a run of other arguments is in the folder.
        InputFileError: If the record there cannot be read.
    """
    path = RunFolder(folder, {}).budget
    is_sweep = num_levels is not None
    arguments = _arguments(setup, budget, eval_data, is_sweep=is_sweep)
    looks = setup.group.leads and not fresh
    found = _recorded(folder, arguments) if looks else None
    if setup.group.any(found is not None):
        chosen: BudgetedSteps = setup.group.share(found)
        return chosen
    share = budget / (num_levels or 1)
    started = time.monotonic()
    pace = measure_pace(
        setup, len(eval_data.images) if eval_data else 0, patience=share / MOST_WARM_UPS
    )
    spent += time.monotonic() - started
    choice = _choice(budget, spent, num_levels or 1, pace, setup.config)
    if write and setup.group.leads:
        path.parent.mkdir(parents=True, exist_ok=True)
        record = record_of(choice, setup, eval_data, is_sweep=is_sweep)
        if not write_json_once(path, record):
            choice = _recorded(folder, arguments) or choice
    elif looks:  # while this one measured, another worker may have chosen
        choice = _recorded(folder, arguments) or choice
    shared: BudgetedSteps = setup.group.share(choice)
    return shared


def record_of(
    choice: BudgetedSteps, setup: Setup, eval_data: EvalData | None, *, is_sweep: bool
) -> dict[str, Any]:
    """Return the choice and what it was made for, as :func:`choose_steps` writes them.

    Args:
        choice: From there.
        setup: As there.
        eval_data: Likewise.
        is_sweep: Whether it is of all levels of a sweep.
    """
    arguments = _arguments(setup, choice.budget, eval_data, is_sweep=is_sweep)
    return {**_to_json(choice), "arguments": arguments}


def _choice(
    budget: float, spent: float, num_levels: int, pace: Pace, config: RecoverConfig
) -> BudgetedSteps:
    steps = steps_within((budget * (1 - RESERVE) - spent) / num_levels, pace, config)
    return BudgetedSteps(
        budget=budget,
        steps=steps,
        usual_steps=config.steps,
        seconds=pace.seconds(config, steps),
        seconds_usual=pace.seconds(config, config.steps),
        seconds_least=pace.seconds(config, LEAST_STEPS),
        seconds_without=spent + num_levels * pace.seconds(config, 0),
    )


def _arguments(
    setup: Setup, budget: float, eval_data: EvalData | None, *, is_sweep: bool
) -> dict[str, Any]:
    """Return what a record must have been made for: all arguments, but for what is chosen here."""
    arguments = {**run_arguments(setup, eval_data), "--budget": f"{budget:g} s"}
    for name in ("--steps", *(["--sparsity", "--channels"] if is_sweep else [])):
        del arguments[name]
    return arguments


def _recorded(folder: Path, arguments: Mapping[str, Any]) -> BudgetedSteps | None:
    """Return what an earlier call chose, None if none did.

    Raises:
        IncompatibleError: If it chose for something else, or a run here has no budget.
        InputFileError: If the record cannot be read.
    """
    again = "repeat its command for what is left to do, or start again with --overwrite"
    run = RunFolder(folder, {})
    path, is_finished = run.budget, run.is_finished
    if not path.exists():
        if is_finished:
            raise IncompatibleError(
                f"--out {folder}: holds a finished run without --budget; choose another "
                "folder or --overwrite it"
            )
        if run.checkpoint.exists() or run.is_replacing:
            raise IncompatibleError(
                f"--out {folder}: holds an unfinished run without --budget; {again}"
            )
        return None
    try:
        record = parse_json(path.read_bytes())
        before = dict(record["arguments"])
        choice = _from_json(record)
    except (OSError, DreamSetError, KeyError, TypeError, ValueError) as error:
        raise InputFileError(
            f"{path}: no record of --budget; start again with --overwrite"
        ) from error
    changes = changed_arguments(before, dict(arguments))
    if changes and is_finished:
        raise IncompatibleError(
            f"--out {folder}: holds a finished run with {', '.join(changes[:3])}; choose "
            "another folder or --overwrite it"
        )
    if changes:
        raise IncompatibleError(f"--out {folder}: was begun with {', '.join(changes[:3])}; {again}")
    return choice


def _to_json(choice: BudgetedSteps) -> dict[str, Any]:
    return {name: getattr(choice, name) for name in (*_COUNTS, *_TIMES)}


def _from_json(record: Mapping[str, Any]) -> BudgetedSteps:
    values: dict[str, Any] = {name: record[name] for name in _COUNTS}
    if not all(type(count) is int and count >= 0 for count in values.values()):
        raise ValueError("a number of steps")
    values |= {name: float(record[name]) for name in _TIMES[:-1]}
    values[_TIMES[-1]] = float(record.get(_TIMES[-1], 0.0))  # not in those of earlier versions
    return BudgetedSteps(**values, is_recorded=True)


_COUNTS = ("steps", "usual_steps")
_TIMES = ("budget", "seconds", "seconds_usual", "seconds_least", "seconds_without")
