"""Prune a copy of the teacher and distil the teacher into it on a dream set.

From Python, see docs/python.md. Imported when first asked for: ``--help`` must answer at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recover.api import Recovered, run, run_sweep

__all__ = ["Recovered", "run", "run_sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recover import api

    return getattr(api, name)
