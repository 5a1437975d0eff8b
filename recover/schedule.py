"""What changes over the steps of a distillation: the sparsity and the learning rate.

Both go through one or several rounds: in each, the student is pruned on the way to that round's
goal, and the rate rises and falls once. After Renda et al. 2020 (arXiv:2003.02389), who prune again
and again and rewind the rate each time.
"""

import math
from dataclasses import dataclass

from recover.config import USUAL_RATE, RecoverConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A stretch of the steps of a run.

    Attributes:
        number: From 0.
        start: Its first step.
        steps: How many it has.
    """

    number: int
    start: int
    steps: int


def round_of(config: RecoverConfig, step: int) -> Round:
    """Return the round that ``step`` is in; of steps that no run reaches the last one.

    Rounds are of equal length to within a step, and there are never more of them than steps.
    """
    count = max(min(config.rounds, config.steps), 1)
    starts = [config.steps * number // count for number in range(count + 1)]
    number = max(number for number in range(count) if starts[number] <= max(step, 0))
    return Round(number=number, start=starts[number], steps=starts[number + 1] - starts[number])


def last_pruning_step(config: RecoverConfig) -> int:
    """Return the step before which the final sparsity is set: 0 in one shot."""
    return _last_of(config, round_of(config, config.steps))


def is_pruning_step(config: RecoverConfig, step: int) -> bool:
    """Return whether the masks are chosen anew before ``step`` (one-shot: only before step 0)."""
    current = round_of(config, step)
    last = _last_of(config, current)
    return step == last or (step < last and (step - current.start) % config.prune_every == 0)


def sparsity_at(config: RecoverConfig, step: int) -> float:
    """Return the sparsity due at ``step``.

    ``s + (s_0 - s) (1 - t / n)^3``, the cubic schedule of Zhu & Gupta 2017 (arXiv:1710.01878),
    eq. 1, from zero or from the sparsity of the student that the run starts from; exactly ``s``
    from step ``n`` on. Of several rounds each takes away the same share of what is left.
    """
    first, final = 1 - (config.warm_start or 0.0), 1 - config.sparsity
    if step >= last_pruning_step(config):
        return config.sparsity
    return 1 - _left(config, step, first, final)


def channels_at(config: RecoverConfig, step: int) -> float:
    """Return the fraction of channels due at ``step``, along the same curve; 1 without any goal."""
    final = 1.0 if config.channels is None else config.channels
    return final if step >= last_pruning_step(config) else _left(config, step, 1.0, final)


def learning_rate(config: RecoverConfig, step: int) -> float:
    """Return the rate of ``step``: linear warm-up, then a half cosine to zero or a constant.

    The half cosine is SGDR's (Loshchilov & Hutter 2017, arXiv:1608.03983), eq. 5, which starts anew
    with every round.
    """
    current = round_of(config, step)
    step -= current.start
    num_warmup, peak = round(config.warmup * current.steps), config.lr or USUAL_RATE
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    if config.lr_schedule == "constant":
        return peak
    progress = (step - num_warmup) / max(current.steps - num_warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def _last_of(config: RecoverConfig, current: Round) -> int:
    """Return the step before which the round's goal is set."""
    if config.schedule == "one-shot":
        return 0
    # At the latest before the last step, which then still teaches the pruned network.
    return current.start + min(round(config.prune_end * current.steps), max(current.steps - 1, 0))


def _left(config: RecoverConfig, step: int, first: float, final: float) -> float:
    """Return what is left at ``step`` of what falls from ``first`` to ``final``."""
    current = round_of(config, step)
    count = round_of(config, config.steps).number + 1
    start, goal = (
        first * (final / first) ** (number / count)
        for number in (current.number, current.number + 1)
    )
    last = _last_of(config, current)
    if step >= last:
        return goal
    passed = (step - current.start) / (last - current.start)
    return start + (goal - start) * (1 - (1 - passed) ** 3)
