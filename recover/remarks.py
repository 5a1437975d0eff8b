"""What the reader of a run's figures must be told before they are believed: one sentence each."""

from collections.abc import Mapping, Sequence
from math import prod, sqrt

from recover.masks import LayerCount
from recover.report import StageRecord

LEAST_HELD_OUT = 100  # dreams; agreement is then known to within 10 points
CHANCE = 1.25  # times that of guessing
LEAST_SPARSITY = 0.01  # in percent, that is worth a word
MOST_LOST = 0.05  # of the agreement: a student that loses more by being taught is remarked on


def few_held_out(num_held_out: int, num_dreams: int, holdout: float) -> list[str]:
    """Return a sentence if no dreams are held out, or too few to tell much; else nothing.

    Args:
        num_held_out: Dreams to measure by.
        num_dreams: All dreams of the set.
        holdout: ``--holdout``.
    """
    if num_held_out >= LEAST_HELD_OUT:
        return []
    if num_held_out == 0:
        return [
            f"no dreams are held out (--holdout {holdout:g} of {num_dreams:,}): agreement on "
            "dreams and the score are not measured"
        ]
    # Two standard errors of a fraction near one half, which are the largest there can be.
    points = 100 / sqrt(num_held_out)
    return [
        f"only {num_held_out:,} dreams are held out: agreement on them is known to within "
        f"{points:.0f} points; more dreams or a higher --holdout tell more"
    ]


def never_pruned(layers: Sequence[str]) -> list[str]:
    """Return a sentence if layers cannot be pruned; else nothing.

    Args:
        layers: Their names.
    """
    if not layers:
        return []
    named = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
    return [
        f"never pruned, since their weights are computed from other tensors (weight_norm, "
        f"spectral_norm, torch.nn.utils.prune): {named}; where that should be, take the network "
        "without it (torch.nn.utils.parametrize.remove_parametrizations, "
        "torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
    ]


def worse_than_before(stages: Mapping[str, StageRecord], num_held_out: int) -> list[str]:
    """Return a sentence if the taught student is clearly worse than what it was taught from.

    Args:
        stages: Those of a report; ``repaired`` and ``recovered`` are looked at.
        num_held_out: Dreams that their agreement was measured on: one alone is no sign.
    """
    before = stages["repaired"].agreement_on_dreams
    after = stages["recovered"].agreement_on_dreams
    if before is None or after is None:
        return []
    if before - after <= max(MOST_LOST, 1.5 / max(num_held_out, 1)):
        return []
    # Weights that were never pruned may be zero, too: one of a million that were drawn.
    percent = 100 * stages["recovered"].sparsity
    of = f" of {percent:.4g} % sparsity" if percent >= LEAST_SPARSITY else ""
    return [
        f"distilling made the student{of} worse: {100 * after:.2f} % agreement with the teacher on "
        f"held-out dreams, {100 * before:.2f} % before its first step; it takes more --steps, or a "
        "lower --lr"
    ]


def no_better_than_chance(
    stages: Mapping[str, StageRecord],
    num_classes: int,
    layers: Sequence[LayerCount],
    allocation: str | None,
) -> list[str]:
    """Return a sentence if a pruned student has learnt next to nothing, and where it is thinnest.

    Layers of which hardly a weight is left let nothing through ("layer collapse": Tanaka et al.
    2020, arXiv:2006.05467), and no step brings them back.

    Args:
        stages: Those of a report; ``recovered`` is looked at.
        num_classes: One of which an image is of; of fewer than three, chance says too little.
        layers: What is left of every layer.
        allocation: As the run had it.
    """
    record = stages["recovered"]
    found = record.agreement_on_dreams
    is_pruned = any(layer.kept < prod(layer.shape) for layer in layers)
    if found is None or not is_pruned or num_classes < 3:
        return []
    if found > CHANCE / num_classes:
        return []
    thin = min(layers, key=lambda layer: layer.kept / layer.shape[0])
    better = "more --steps" if allocation == "lamp" else "--allocation lamp"
    return [
        f"the student answers no better than chance ({100 * found:.2f} % agreement on held-out "
        f"dreams): of {thin.name} {thin.kept:,} of {prod(thin.shape):,} weights are left, and "
        f"little gets through; prune less, or try {better}"
    ]
