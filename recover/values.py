"""Values of a record that somebody else may have made: of the types that anything goes by."""

import math
from collections.abc import Mapping
from typing import Any


def config_of(record: Any) -> dict[str, Any]:
    """Return a recorded config; what earlier versions did not record is missing.

    Args:
        record: Of :meth:`recover.config.RecoverConfig.to_json`, as parsed.

    Raises:
        TypeError: If a value that anything goes by has another type.
    """
    config = dict(mapping(record))
    for name in ("sparsity", "steps", "holdout"):
        number(config.get(name, 0))
    count(config.get("seed", 0))
    for name in ("channels", "warm_start"):
        optional_number(config.get(name))
    for name in ("student", "pattern", "schedule", "importance", "allocation"):
        _optional_text(config.get(name))
    return config


def mapping(value: Any) -> Mapping[str, Any]:
    """Return an object."""
    if not isinstance(value, Mapping):
        raise TypeError(f"found {type(value).__name__}, expected an object")
    return value


def fraction(value: Any) -> float | None:
    """Return a number in [0, 1], or None."""
    if value is None:
        return None
    if not 0 <= number(value) <= 1:
        raise ValueError(f"found {value!r:.40}, expected a fraction")
    return float(value)


def optional_number(value: Any) -> float | None:
    """Return a number, or None."""
    return None if value is None else number(value)


def number(value: Any) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"found {value!r:.40}, expected a number")
    return float(value)


def count(value: Any) -> int:
    """Return a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"found {value!r:.40}, expected a whole number")
    return value


def _optional_text(value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"found {value!r:.40}, expected text")
