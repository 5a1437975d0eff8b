"""A whole run: plan, make the missing shards, write the index last.

Shards are written one by one, each whole or not at all. A run that was killed is continued by
the same call: finished shards are checked and kept, the rest is made. Shards hold nothing that
depends on when or how often the run was started, so the result is the same to the byte.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamforge.common_start import StartFile
from dreamforge.compile_choice import settle_compile
from dreamforge.config import SynthesisConfig, refuse_for_sigmoids
from dreamforge.engines import BatchEngine, shard_engines
from dreamforge.finish import RunFacts, finish_set
from dreamforge.journal import Journal
from dreamforge.overwrite import refuse_inputs
from dreamforge.plan import ShardPlan, plan_shards
from dreamforge.replacing import finish_replacing
from dreamforge.resume import (
    missing_shards,
    problem_of,
    read_finished,
    refuse_foreign,
    refuse_other_runs,
    remove_set,
    reopen,
    shard_attributes,
)
from shared.device import describe_device
from shared.dreams import DreamBatch, concatenate
from shared.errors import DreamforgeError
from shared.files import remove_stale_temporaries
from shared.manifest import Manifest
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.shards import read_teacher, write_shard
from shared.teacher import Teacher
from shared.workers import Worker


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
        overwrite: Remove the set that is there first; a worker removes its own shards.
        progress: Called about once a second.

    Raises:
        ConfigError: If ``out`` is the teacher's file, or with ``overwrite`` no dream set; or if
            targets are mixtures for a teacher that answers with sigmoids.
        IncompatibleError: If ``out`` holds dreams of another teacher or other arguments.
        DreamSetError: If something else is there.
        DreamforgeError: If nothing can be written there.
    """
    started = time.monotonic()
    refuse_inputs(out, [teacher.spec.path])
    worker = worker or Worker()
    # Then what the other workers have not removed yet lies beside what is made.
    shares_overwriting = overwrite and worker.count > 1
    refuse_for_sigmoids(config, teacher.spec)
    config = settle_compile(teacher, config.resolve(teacher.spec.image_shape), device)
    shards = plan_shards(config, out)
    attributes = shard_attributes(teacher, config, len(shards))
    journal = Journal(out, attributes, f"{describe_device(device)}, torch {torch.__version__}")
    start_file = StartFile(out, attributes)
    finished, notes = _look(out, shards, attributes, worker, journal, overwrite=overwrite)
    # Reading all of a set that is being made is left to whoever may be its last worker.
    known = [shard for shard in shards if finished or worker.makes(shard.number)]
    missing, damaged = missing_shards(known, attributes, finished)
    notes += damaged
    mine = [shard for shard in missing if worker.makes(shard.number)]
    if finished and len(mine) < len(missing):
        reopen(out, missing, attributes, finished)
        finished = None
    num_made = 0
    if mine:
        _refuse_unwritable(out)
        engine_of_shard, problem = shard_engines(
            teacher, config, device, start_file, journal, progress
        )
        notes += [f"made without compiling, which failed: {problem}"] if problem else []
        reporter = _Reporter(progress, config, mine)
        for shard in mine:
            if problem_of(shard, attributes, _promised(finished, shard)) is None:
                continue  # another process with the same share was faster
            notes += _make_shard(out, engine_of_shard(), shard, attributes, reporter, journal)
            num_made += 1
            if num_made == 1 and not shares_overwriting:  # others may have begun at this moment
                refuse_other_runs(out, shards, attributes)
    made_all = len(known) == len(shards) and len(mine) == len(missing)
    complete = made_all or _all_there(shards, attributes)
    if num_made > 1 and not complete and not shares_overwriting:
        refuse_other_runs(out, shards, attributes)
    quality: dict[str, float] = {}
    if complete:
        manifest = finished
        if finished is None or missing or (embed_teacher and read_teacher(out) is None):
            facts = RunFacts(
                teacher=teacher,
                shards=shards,
                attributes=attributes,
                provenance=provenance or {},
                embed_teacher=embed_teacher,
            )
            manifest = finish_set(out, facts, finished, journal)
        assert manifest is not None
        journal.remove()
        start_file.remove()
        quality = dict(manifest.quality)
    return SynthesisResult(
        out=out,
        num_images=config.num_images,
        num_shards=len(shards),
        num_made=num_made,
        seconds=time.monotonic() - started,
        finished=complete,
        quality=quality,
        notes=tuple(notes),
    )


def _look(
    out: Path,
    shards: Sequence[ShardPlan],
    attributes: Mapping[str, Any],
    worker: Worker,
    journal: Journal,
    *,
    overwrite: bool,
) -> tuple[Manifest | None, list[str]]:
    """Make the folder, clear or check what is in it, and return the finished set if it is one."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DreamforgeError(
            f"{out.parent}: cannot be made a folder ({error.strerror}); choose another --out"
        ) from error
    remove_stale_temporaries(out)
    finish_replacing(out)
    if overwrite:
        remove_set(out, shards, worker)
        if worker.index == 0:
            journal.remove()
    if not (overwrite and worker.count > 1):  # else others remove their own shards yet
        refuse_other_runs(out, shards, attributes)
    return read_finished(out, shards, attributes)


def _refuse_unwritable(out: Path) -> None:
    """Raise DreamforgeError now rather than after the first shard was computed."""
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise DreamforgeError(
            f"{out.parent}: cannot be written to ({error.strerror}); choose another --out"
        ) from error


def _all_there(shards: Sequence[ShardPlan], attributes: Mapping[str, Any]) -> bool:
    """Return whether all shards are there and good; none is read while one is not there."""
    if not all(shard.path.exists() for shard in shards):
        return False
    return not missing_shards(shards, attributes)[0]


def _promised(finished: Manifest | None, shard: ShardPlan) -> str | None:
    return finished.shards[shard.number].sha256 if finished else None


def _make_shard(
    out: Path,
    engine: BatchEngine,
    shard: ShardPlan,
    attributes: Mapping[str, Any],
    reporter: "_Reporter",
    journal: Journal,
) -> list[str]:
    batches: list[DreamBatch] = []
    notes = []
    with journal.timing(shard.number) as facts:
        for plan in shard.batches:
            result = engine.synthesize(plan.number, plan.start, plan.stop, reporter.step)
            if result.attempts > 1:
                divisor = 2 ** (result.attempts - 1)
                notes.append(f"batch {plan.number} diverged, made with the rate / {divisor}")
                facts.setdefault("attempts", {})[str(plan.number)] = result.attempts
            batches.append(result.dreams)
            reporter.finish_batch(len(result.dreams), result.terms)
        # Another command on the same output may have begun at the same moment.
        refuse_foreign(out, shard.path, attributes)
        write_shard(
            shard.path,
            concatenate(batches),
            {**attributes, "shard": shard.number},
            compression=attributes["synthesis"]["compress"],
        )
    return notes


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
