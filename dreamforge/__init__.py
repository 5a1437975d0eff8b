"""Invert a trained classifier into a dream set: teacher in, sharded HDF5 out.

From Python, see docs/python.md. Imported when first asked for: ``--help`` must answer at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamforge.api import draw, import_folder, synth
    from shared.dreamset import DreamSet

__all__ = ["DreamSet", "draw", "import_folder", "synth"]
_HOME = {
    "DreamSet": "shared.dreamset",
    "draw": "dreamforge.api",
    "import_folder": "dreamforge.api",
    "synth": "dreamforge.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
