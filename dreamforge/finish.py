"""The end of a run: the index, from the shards that are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamforge.embedding import recorded
from dreamforge.journal import Journal, Spent
from dreamforge.plan import ShardPlan
from dreamforge.resume import read_finished, refuse_other_runs
from dreamforge.signing import remove_signature
from shared.confidence import first_confidences, recognised
from shared.manifest import Manifest
from shared.provenance import is_reproducible_build
from shared.shards import info_of, read_shard, read_teacher, write_index
from shared.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunFacts:
    """What the index is made from, besides the shards' contents."""

    teacher: Teacher
    shards: Sequence[ShardPlan]
    attributes: Mapping[str, Any]
    provenance: Mapping[str, Any]
    embed_teacher: bool


def finish_set(out: Path, facts: RunFacts, before: Manifest | None, journal: Journal) -> Manifest:
    """Write the index, unless the one that is there (``before``, or another worker's) is right."""
    refuse_other_runs(out, facts.shards, facts.attributes)
    infos = tuple(info_of(shard.path, shard.num_images) for shard in facts.shards)
    # In this order: whoever removes the journal has written the index before.
    spent = journal.read()
    found, _ = read_finished(out, facts.shards, facts.attributes)
    if found is not None and found.shards == infos:
        if not facts.embed_teacher or read_teacher(out) is not None:
            return found
        before = found
    embed = facts.embed_teacher or (before is not None and read_teacher(out) is not None)
    spec, blob = recorded(facts.teacher, embed=embed)
    labels, quality = _answers(facts.shards, spec.answers)
    manifest = Manifest(
        num_images=sum(info.num_images for info in infos),
        shards=infos,
        teacher=spec,
        synthesis=facts.attributes["synthesis"],
        provenance=_provenance(facts.provenance, spent, before),
        quality=quality,
    )
    write_index(out, manifest, labels, teacher=blob)
    remove_signature(out)  # now: what was signed is there until it is replaced
    return manifest


def _provenance(facts: Mapping[str, Any], spent: Spent, before: Manifest | None) -> dict[str, Any]:
    """Add how often batches were begun, the seconds of all processes, and several devices.

    Durations and devices not where the index must come out the same each time: for callers that
    state no provenance, and in reproducible builds.
    """
    whole: dict[str, Any] = {"synthetic": True, **facts}
    attempts_before = before.provenance.get("attempts") if before else None
    attempts = {**(attempts_before if isinstance(attempts_before, dict) else {}), **spent.attempts}
    if attempts:  # these diverged, and were made with a lower rate
        whole["attempts"] = attempts
    if not facts or is_reproducible_build():
        return whole
    earlier = before.provenance.get("seconds") if before else None
    parts = [value for value in (spent.seconds, earlier) if isinstance(value, int | float)]
    if parts:
        whole["seconds"] = round(sum(parts), 3)
    if len(spent.devices) > 1:
        whole["devices"] = list(spent.devices)
    return whole


def _answers(shards: Sequence[ShardPlan], answers: str) -> tuple[torch.Tensor, dict[str, float]]:
    """Return all labels, and figures over the stored logits; one shard in memory at a time."""
    columns = []
    for shard in shards:
        dreams = read_shard(shard.path)
        columns.append((dreams.labels, dreams.logits, dreams.loss))
    labels, logits, loss = (torch.cat(column) for column in zip(*columns, strict=True))
    return labels, {
        "teacher_accuracy": float(recognised(logits, labels, answers).float().mean()),
        "mean_confidence": first_confidences(logits, answers).mean().item(),
        "mean_loss": loss.mean().item(),
    }
