"""What an option is where nobody says, and that depends on the others. No torch here."""

from collections.abc import Mapping
from typing import Any

FISHER_FROM = 0.97  # sparsity: measured were 0.98, where it gains, and 0.95, where it does not


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
    return "fisher" if is_sparse and config["allocation"] == "global" else "magnitude"
