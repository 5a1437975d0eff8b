"""What a recovery run found, as a record that programs read."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from recover.masks import LayerCount

STAGES = ("teacher", "pruned", "repaired", "recovered")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """How good the network is at one stage. Fractions in [0, 1]; None where nothing was measured.

    Attributes:
        accuracy: On the real images.
        agreement: Top-1 equal to the teacher's, on the real images where there are some, else on
            the held-out dreams.
        agreement_on_dreams: The same on the held-out dreams.
        sparsity: Fraction of the prunable weights that are zero.
        num_nonzero: How many prunable weights are not zero.
    """

    accuracy: float | None
    agreement: float | None
    agreement_on_dreams: float | None
    sparsity: float
    num_nonzero: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """The result of one run of ``recover run``.

    Attributes:
        sparsity: As asked for.
        teacher: The dense network.
        pruned: Its copy, pruned in one shot at the full sparsity.
        repaired: The pruned copy with re-estimated BatchNorm statistics.
        recovered: The distilled student that was saved.
        seconds: All sessions of the run together.
        out: The output folder.
        num_weights: Prunable weights of the network.
        num_kept: Weights that the masks keep.
        layers: Kept weights by layer.
        config: The resolved config.
        provenance: Teacher, dream set, versions, device, command and date.
        warnings: One sentence each.
    """

    sparsity: float
    teacher: StageRecord
    pruned: StageRecord
    repaired: StageRecord
    recovered: StageRecord
    seconds: float
    out: str
    num_weights: int
    num_kept: int
    layers: tuple[LayerCount, ...]
    config: dict[str, Any]
    provenance: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def stages(self) -> dict[str, StageRecord]:
        """The four stages by name, in order."""
        return {name: getattr(self, name) for name in STAGES}

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return dataclasses.asdict(self)
