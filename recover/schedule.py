"""What changes over the steps of a distillation: the sparsity and the learning rate."""

import math

from recover.config import USUAL_RATE, RecoverConfig


def last_pruning_step(config: RecoverConfig) -> int:
    """Return the step before which the final sparsity is set: 0 in one shot."""
    if config.schedule == "one-shot":
        return 0
    # At the latest before the last step, which then still teaches the pruned network.
    return min(round(config.prune_end * config.steps), max(config.steps - 1, 0))


def starts_pruned(config: RecoverConfig) -> bool:
    """Return whether what is taught is the pruned network, rather than a dense one to be pruned.

    A gradual schedule that ends before step 0 is no such case: it prunes the dense one there.
    """
    return config.schedule == "one-shot" or config.steps == 0


def is_pruning_step(config: RecoverConfig, step: int) -> bool:
    """Return whether the masks are chosen anew before ``step`` (one-shot: only before step 0)."""
    last = last_pruning_step(config)
    return step == last or (step < last and step % config.prune_every == 0)


def sparsity_at(config: RecoverConfig, step: int) -> float:
    """Return the sparsity due at ``step``.

    ``s + (s_0 - s) (1 - t / n)^3``, the cubic schedule of Zhu & Gupta 2017 (arXiv:1710.01878),
    eq. 1, from zero or from the sparsity of the student that the run starts from; exactly ``s``
    from step ``n`` on.
    """
    return _on_the_way(config, step, config.warm_start or 0.0, config.sparsity)


def channels_at(config: RecoverConfig, step: int) -> float:
    """Return the fraction of channels due at ``step``, along the same curve; 1 without any goal."""
    if config.channels is None:
        return 1.0
    start = 1.0 if config.warm_start is None else config.warm_start
    return _on_the_way(config, step, start, config.channels)


def _on_the_way(config: RecoverConfig, step: int, first: float, final: float) -> float:
    last = last_pruning_step(config)
    if step >= last:
        return final
    return first + (final - first) * (1 - (1 - step / last) ** 3)


def learning_rate(config: RecoverConfig, step: int) -> float:
    """Return the rate of ``step``: linear warm-up, then a half cosine to zero or a constant.

    The half cosine is SGDR's (Loshchilov & Hutter 2017, arXiv:1608.03983), eq. 5, with no restart.
    """
    num_warmup, peak = round(config.warmup * config.steps), config.lr or USUAL_RATE
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    if config.lr_schedule == "constant":
        return peak
    progress = (step - num_warmup) / max(config.steps - num_warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
