"""The better part of a dream set becomes a smaller one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamforge.assemble import Rows, derived_provenance, refuse_itself, write_set
from dreamforge.overwrite import files_of
from dreamforge.preview import answers_of
from shared.confidence import confidences, recognised
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.manifest import Manifest
from shared.progress import ProgressCallback, ignore_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Which dreams to keep; all that are given must hold.

    Attributes:
        min_confidence: The teacher's probability of the label, in [0, 1], at least.
        agree: Whether the teacher must recognise the label (:func:`shared.confidence.recognised`).
        per_class: At most so many of each class, the most confident ones.
        num_images: At most so many in all, as balanced as the classes allow, the most confident
            ones of each.
    """

    min_confidence: float | None = None
    agree: bool = False
    per_class: int | None = None
    num_images: int | None = None

    def __post_init__(self) -> None:
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"--min-confidence: found {self.min_confidence}, expected 0 to 1")
        for flag, value in (("--per-class", self.per_class), ("--n", self.num_images)):
            if value is not None and value < 1:
                raise ConfigError(f"{flag}: found {value}, expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the criteria that are given, as JSON types."""
        given = {
            "min_confidence": self.min_confidence,
            "agree": self.agree or None,
            "per_class": self.per_class,
            "n": self.num_images,
        }
        return {name: value for name, value in given.items() if value is not None}


def choose(dreams: DreamSet, criteria: Criteria) -> Tensor:
    """Return the rows that meet the criteria, ascending int64; possibly none."""
    labels = dreams.labels
    scores = torch.cat([confidences(*answer) for answer in answers_of(dreams)])
    keep = torch.ones(len(labels), dtype=torch.bool)
    if criteria.min_confidence is not None:
        keep &= scores >= criteria.min_confidence
    if criteria.agree:
        keep &= torch.cat([recognised(*answer) for answer in answers_of(dreams)])
    rows = keep.nonzero().flatten()
    ranks = _ranks(labels[rows], scores[rows])
    if criteria.per_class is not None:
        kept = ranks < criteria.per_class
        rows, ranks = rows[kept], ranks[kept]
    if criteria.num_images is not None:
        # By rank first: every class gives its best before any gives its second best.
        best_first = scores[rows].argsort(descending=True, stable=True)
        order = best_first[ranks[best_first].argsort(stable=True)]
        rows = rows[order[: criteria.num_images]]
    return rows.sort().values


def filter_set(
    path: Path,
    out: Path,
    criteria: Criteria,
    *,
    facts: Mapping[str, Any] | None = None,
    shard_size: int | None = None,
    compression: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Manifest:
    """Write a set with the rows that meet the criteria, in their order.

    Args:
        path: The index to read.
        out: The new index.
        criteria: Which rows to keep.
        facts: Provenance of this run.
        shard_size: As in :func:`dreamforge.assemble.write_set`, like the rest.
        compression: Gzip the arrays.
        overwrite: Replace what is at ``out``.
        progress: Told after every shard.

    Raises:
        ConfigError: If no row meets the criteria, or ``out`` is the source.
        DreamSetError: If the source is damaged.
    """
    dreams = DreamSet.open(path)
    refuse_itself(out, [dreams])
    rows = choose(dreams, criteria)
    if len(rows) == 0:
        raise ConfigError(f"{path}: none of {dreams.num_images} dreams meets {criteria.to_json()}")
    provenance = derived_provenance([dreams], facts or {})
    return write_set(
        out,
        Rows(
            num_images=len(rows),
            read=lambda start, stop: dreams.select(rows[start:stop]),
            teacher=dreams.manifest.teacher,
            synthesis=dreams.manifest.synthesis,
            provenance={**provenance, "filter": criteria.to_json()},
            teacher_blob=dreams.teacher_blob(),
            sources=files_of(dreams),
        ),
        shard_size=shard_size,
        compression=compression,
        overwrite=overwrite,
        progress=progress,
    )


def _ranks(labels: Tensor, scores: Tensor) -> Tensor:
    """Return the place of each row in its class by score, 0 the highest: int64 ``(n,)``."""
    best_first = scores.argsort(descending=True, stable=True)
    grouped = best_first[labels[best_first].argsort(stable=True)]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(grouped)
    ranks[grouped] = torch.arange(len(labels)) - starts[labels[grouped]]
    return ranks
