"""How long work reports where it is, without knowing who shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report: ``done`` of ``total`` ``unit`` in a named stage, with figures worth showing."""

    stage: str
    done: float
    total: float
    unit: str  # plural noun: "images", "steps", "shards"
    facts: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Show nothing: the default of every library function."""
