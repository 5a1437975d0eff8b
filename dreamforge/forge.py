"""A whole run: plan, make the missing shards, write the index last.

Shards are written one by one, each whole or not at all. A run that was killed is continued by
the same call: finished shards are checked and kept, the rest is made. Shards hold nothing that
depends on when or how often the run was started, so the result is the same to the byte.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamforge.config import SynthesisConfig
from dreamforge.engine import Engine
from dreamforge.plan import ShardPlan, Worker, plan_shards
from shared.checkpoint import to_safetensors
from shared.dreams import DreamBatch, concatenate
from shared.dreamset import DreamSet
from shared.errors import DreamSetError, IncompatibleError
from shared.files import remove_stale_temporaries, sha256_of
from shared.manifest import Manifest, ShardInfo
from shared.metrics import accuracy
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.shards import read_shard, read_shard_attributes, write_index, write_shard
from shared.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisResult:
    """What a run left behind.

    ``finished`` is False when other workers still owe shards; there is no index then.
    """

    out: Path
    num_images: int
    num_shards: int
    num_made: int  # shards this call made, not found
    seconds: float
    finished: bool
    quality: Mapping[str, float]
    notes: tuple[str, ...]


def synthesize(
    teacher: Teacher,
    config: SynthesisConfig,
    out: Path,
    device: torch.device,
    *,
    worker: Worker | None = None,
    provenance: Mapping[str, Any] | None = None,
    embed_teacher: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> SynthesisResult:
    """Make the dream set ``out``, or what is missing of it.

    Args:
        teacher: What to invert.
        config: Resolved or not; it is resolved for the teacher's image shape.
        out: Path of the index; the shards lie beside it.
        device: Where to compute.
        worker: Which share of the shards to make; whoever finishes the set writes the index.
        provenance: Facts for the index: versions, command line, licence.
        embed_teacher: Put the teacher's weights into the index.
        overwrite: Remove what is there first.
        progress: Called about once a second.

    Raises:
        IncompatibleError: If ``out`` holds dreams of another teacher or other arguments.
    """
    started = time.monotonic()
    config = config.resolve(teacher.spec.image_shape)
    shards = plan_shards(config, out)
    attributes = shard_attributes(teacher, config, len(shards))
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(out)
    if overwrite:
        _remove(out)
    refuse_other_runs(out, shards, attributes)
    missing, notes = _missing(shards, attributes)
    mine = [shard for shard in missing if _is_mine(shard, worker or Worker())]
    if mine:
        engine = Engine(teacher, config, device)
        reporter = _Reporter(progress, config, mine)
        for shard in mine:
            notes += _make_shard(engine, shard, attributes, reporter)
    finished = len(mine) == len(missing) or not _missing(shards, attributes)[0]
    quality: dict[str, float] = {}
    if finished:
        manifest = _finish(out, teacher, config, shards, provenance or {}, embed=embed_teacher)
        quality = dict(manifest.quality)
    return SynthesisResult(
        out=out,
        num_images=config.num_images,
        num_shards=len(shards),
        num_made=len(mine),
        seconds=time.monotonic() - started,
        finished=finished,
        quality=quality,
        notes=tuple(notes),
    )


def shard_attributes(teacher: Teacher, config: SynthesisConfig, num_shards: int) -> dict[str, Any]:
    """Return what every shard of a run says of itself; equal attributes mean the same run."""
    return {
        "num_shards": num_shards,
        "teacher": teacher.spec.fingerprint,
        "synthesis": _facts(teacher, config),
    }


def refuse_other_runs(
    out: Path, shards: Sequence[ShardPlan], attributes: Mapping[str, Any]
) -> None:
    """Check that whatever lies at ``out`` was begun with the same arguments.

    Raises:
        IncompatibleError: Naming the first differences.
    """
    planned = {shard.path for shard in shards}
    for path in sorted(out.parent.glob(f"{out.stem}-?????-of-?????.h5")):
        try:
            found = read_shard_attributes(path)
        except DreamSetError:
            continue  # damaged: it is made again, or belongs to nobody
        differences = _differences(found, attributes)
        if path not in planned and not differences:
            differences = [f"found {path.name}"]
        if differences:
            raise IncompatibleError(
                f"{out}: begun with other arguments ({'; '.join(differences[:4])}): "
                "use the same ones, another --out, or --overwrite"
            )


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    if found.get("teacher") != expected["teacher"]:
        return ["the teacher is another one"]
    before, now = json.loads(found["synthesis"]), expected["synthesis"]
    names = sorted(before.keys() | now.keys())
    return [
        f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _facts(teacher: Teacher, config: SynthesisConfig) -> dict[str, Any]:
    """Everything that decides the pixels, apart from the weights and the device."""
    spec = teacher.spec
    preprocessing = {
        "architecture": spec.architecture,
        "image_shape": list(spec.image_shape),
        "mean": list(spec.mean),
        "std": list(spec.std),
    }
    return {"method": "deepinversion", **config.to_json(), **preprocessing}


def _remove(out: Path) -> None:
    out.unlink(missing_ok=True)  # first: without an index the rest is an unfinished run
    for path in out.parent.glob(f"{out.stem}-?????-of-?????.h5"):
        path.unlink()


def _is_mine(shard: ShardPlan, worker: Worker) -> bool:
    return shard.number % worker.count == worker.index


def _missing(
    shards: Sequence[ShardPlan], attributes: Mapping[str, Any]
) -> tuple[list[ShardPlan], list[str]]:
    """Return the shards to make, and a note for each damaged one among them."""
    missing, notes = [], []
    for shard in shards:
        remove_stale_temporaries(shard.path)
        if not shard.path.exists():
            missing.append(shard)
            continue
        try:
            dreams = read_shard(shard.path)
            found = read_shard_attributes(shard.path)
        except DreamSetError as error:
            missing.append(shard)
            notes.append(f"made again: {error}")
            continue
        if len(dreams) != shard.num_images or found.get("shard") != shard.number:
            missing.append(shard)
            notes.append(f"made again: {shard.path.name} held other dreams")
    return missing, notes


def _make_shard(
    engine: Engine, shard: ShardPlan, attributes: Mapping[str, Any], reporter: "_Reporter"
) -> list[str]:
    batches: list[DreamBatch] = []
    notes = []
    for plan in shard.batches:
        result = engine.synthesize(plan.number, plan.start, plan.stop, reporter.step)
        if result.attempts > 1:
            notes.append(f"batch {plan.number} diverged, made with the rate / {result.attempts}")
        batches.append(result.dreams)
        reporter.finish_batch(len(result.dreams), result.terms)
    write_shard(
        shard.path,
        concatenate(batches),
        {**attributes, "shard": shard.number},
        compression=attributes["synthesis"]["compress"],
    )
    return notes


def _finish(
    out: Path,
    teacher: Teacher,
    config: SynthesisConfig,
    shards: Sequence[ShardPlan],
    provenance: Mapping[str, Any],
    *,
    embed: bool,
) -> Manifest:
    if out.exists():  # finished before, by this run or another worker; shards were just checked
        return DreamSet.open(out).manifest
    labels, quality = _answers(shards)
    manifest = Manifest(
        num_images=config.num_images,
        shards=tuple(
            ShardInfo(
                name=shard.path.name,
                num_images=shard.num_images,
                num_bytes=shard.path.stat().st_size,
                sha256=sha256_of(shard.path),
            )
            for shard in shards
        ),
        teacher=teacher.spec,
        synthesis=_facts(teacher, config),
        provenance={"synthetic": True, **provenance},
        quality=quality,
    )
    blob = to_safetensors(teacher.network, teacher.spec.to_json()) if embed else None
    write_index(out, manifest, labels, teacher=blob)
    return manifest


def _answers(shards: Sequence[ShardPlan]) -> tuple[torch.Tensor, dict[str, float]]:
    """Return all labels, and figures over the stored logits; one shard in memory at a time."""
    columns = []
    for shard in shards:
        dreams = read_shard(shard.path)
        columns.append((dreams.labels, dreams.logits, dreams.loss))
    labels, logits, loss = (torch.cat(column) for column in zip(*columns, strict=True))
    return labels, {
        "teacher_accuracy": accuracy(logits.float(), labels),
        "mean_confidence": logits.float().softmax(1).amax(1).mean().item(),
        "mean_loss": loss.mean().item(),
    }


class _Reporter:
    """Turns steps and batches into images done; a batch in the making counts in part."""

    def __init__(
        self, progress: ProgressCallback, config: SynthesisConfig, shards: Sequence[ShardPlan]
    ) -> None:
        self._progress = progress
        self._steps = config.steps or 1
        self._batch_size = config.batch_size or 1
        self._total = sum(shard.num_images for shard in shards)
        self._done = 0.0
        self._started = time.monotonic()

    def step(self, step: int, terms: Mapping[str, float]) -> None:
        self._report(self._done + self._batch_size * step / self._steps, terms)

    def finish_batch(self, num_images: int, terms: Mapping[str, float]) -> None:
        self._done += num_images
        self._report(self._done, terms)

    def _report(self, done: float, terms: Mapping[str, float]) -> None:
        rate = done / max(time.monotonic() - self._started, 1e-9)
        self._progress(
            Progress(
                stage="synthesize",
                done=round(min(done, self._total), 1),
                total=self._total,
                unit="images",
                facts={"images/s": rate, **terms},
            )
        )
