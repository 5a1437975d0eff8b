"""What an option is where nobody says, and that depends on the others. No torch here."""

from collections.abc import Mapping
from typing import Any

FISHER_FROM = 0.97  # sparsity: measured were 0.98, where it gains, and 0.95, where it does not
LAMP_FROM = 0.97  # likewise


def usual_importance(config: Mapping[str, Any]) -> str:
    """Return what ``--importance`` is where nobody says: what ended at more accuracy, measured.

    Gradients need steps to be taken before anything is removed. They tell channels best, and
    weights where few are left; below, magnitude is as good or better (benchmarks/RESULTS.md).

    Args:
        config: Of :meth:`RecoverConfig.to_json`.
    """
    if config["schedule"] == "one-shot" or config["steps"] == 0:
        return "magnitude"
    if config["channels"] is not None:
        return "fisher"
    is_sparse = config["sparsity"] >= FISHER_FROM and config["student"] is None
    is_open = config["allocation"] in (None, "global", "lamp")
    return "fisher" if is_sparse and is_open else "magnitude"


def usual_allocation(config: Mapping[str, Any]) -> str:
    """Return what ``--allocation`` is where nobody says, likewise.

    Where few weights are left, comparing those of all layers can take a thin layer's last ones, and
    nothing gets through it any more; relative to what is left of a layer they grow.

    Args:
        config: Of :meth:`RecoverConfig.to_json`, with its importance chosen.
    """
    by_weight = config["channels"] is None and config["pattern"] is None
    is_sparse = config["sparsity"] >= LAMP_FROM and config["importance"] == "fisher"
    return "lamp" if by_weight and is_sparse else "global"
