"""A dream set of rows that exist already: what merge, filter, unpack and import have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamforge.kept_shard import read_kept
from dreamforge.overwrite import files_of, refuse_sources
from dreamforge.replacing import new_set
from shared.confidence import first_confidences, recognised
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.manifest import Manifest, canonical_json, shard_names
from shared.metrics import default_batch_size
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.shards import info_of, write_index, write_shard
from shared.spec import TeacherSpec
from shared.teacher import Teacher
from shared.values import stored_logits

SHARD_BYTES = 64 * 2**20  # of images


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Where the rows of a new set come from, and what its index will say.

    Attributes:
        num_images: How many rows there are.
        read: Returns rows ``start`` to ``stop``.
        teacher: Of all rows.
        synthesis: For the manifest and the shards.
        provenance: For the manifest.
        teacher_blob: Weights to embed, or None.
        sources: Files that ``read`` needs, which must stay as they are.
        decided_by: What decides the rows, where reading them takes long: after an interruption the
            shards that are whole are kept, and equal ones are not made again. None: no such thing.
    """

    num_images: int
    read: Callable[[int, int], DreamBatch]
    teacher: TeacherSpec
    synthesis: Mapping[str, Any]
    provenance: Mapping[str, Any]
    teacher_blob: bytes | None = None
    sources: Sequence[Path] = ()
    decided_by: Mapping[str, Any] | None = None


def write_set(
    out: Path,
    rows: Rows,
    *,
    shard_size: int | None = None,
    compression: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Manifest:
    """Write shards and, last, the index of a set of the given rows.

    Args:
        out: The index.
        rows: What to write.
        shard_size: Images in a shard; by default as many as fill 64 MiB.
        compression: Gzip the arrays.
        overwrite: Replace a set, or the shards of one, that is there, once the new one is whole.
        progress: Told how many images are written.

    Returns:
        The manifest.

    Raises:
        ConfigError: If something is there, or the shard size is impossible.
        DreamSetError: If the rows cannot be read.
    """
    if shard_size is not None and shard_size < 1:
        raise ConfigError(f"--shard-size: found {shard_size}, expected at least 1")
    size = shard_size or max(1, SHARD_BYTES // prod(rows.teacher.image_shape))
    num_shards = -(-rows.num_images // size)
    names = shard_names(out, num_shards)
    text = None
    if rows.decided_by is not None:
        facts = (dict(rows.decided_by), rows.teacher.to_json(), rows.num_images, size, compression)
        text = canonical_json(facts).decode()
    with new_set(out, overwrite=overwrite, planned=names, sources=rows.sources, rows=text) as place:
        manifest, labels = _write_shards(place, rows, names, progress, compression=compression)
        write_index(place, manifest, labels, teacher=rows.teacher_blob)
    return manifest


def _write_shards(
    out: Path,
    rows: Rows,
    names: Sequence[str],
    progress: ProgressCallback,
    *,
    compression: bool,
) -> tuple[Manifest, torch.Tensor]:
    num_shards = len(names)
    edges = [rows.num_images * number // num_shards for number in range(num_shards + 1)]
    shards, labels, answers = [], [], []
    tell = written(progress, rows.num_images)
    for number, name in enumerate(names):
        start, stop = edges[number], edges[number + 1]
        path = out.with_name(name)
        attributes = {
            "shard": number,
            "num_shards": num_shards,
            "teacher": rows.teacher.fingerprint,
            "synthesis": dict(rows.synthesis),
        }
        kept = read_kept(path, attributes, start, stop - start)
        if kept is None:
            dreams = rows.read(start, stop)
            shards.append(write_shard(path, dreams, attributes, compression=compression))
        else:
            dreams = kept
            shards.append(info_of(path, len(kept)))
        labels.append(dreams.labels)
        answers.append(_answers(dreams, rows.teacher.answers))
        tell(stop)
    manifest = Manifest(
        num_images=rows.num_images,
        shards=tuple(shards),
        teacher=rows.teacher,
        synthesis=dict(rows.synthesis),
        provenance=dict(rows.provenance),
        quality=_quality(answers, rows.num_images),
    )
    return manifest, torch.cat(labels)


def written(progress: ProgressCallback, num_images: int) -> Callable[[int], None]:
    """Return what is to be told up to which row a set has come."""
    return lambda done: progress(
        Progress(stage="write", done=done, total=num_images, unit="images")
    )


def answered(
    teacher: Teacher, images: Tensor, start: int, what: str, tell: Callable[[int], None]
) -> DreamBatch:
    """Return the rows of images that were not made for a class: labels are the teacher's answers.

    Args:
        teacher: Answers, where it is.
        images: uint8 ``(N, C, H, W)``.
        start: Number of the first row; ``batch`` counts on, since no image depends on another.
        what: The images, for an error.
        tell: Told after every forward pass up to which row there are answers.

    Raises:
        CheckpointError: If the teacher's logits are not finite, or too large for float16.
    """
    parts, done = [], start
    for part in images.split(default_batch_size(images)):
        parts.append(teacher.logits(part))
        done += len(part)
        tell(done)
    logits = torch.cat(parts)
    return DreamBatch(
        images=images,
        labels=logits.argmax(1),
        logits=stored_logits(logits, f"{what}: {teacher.spec.architecture}"),
        batch=torch.arange(start, start + len(images), dtype=torch.int32),
        loss=torch.zeros(len(images)),
    )


def refuse_itself(out: Path, sources: Sequence[DreamSet]) -> None:
    """Raise ConfigError if writing ``out`` would overwrite the files of one of its sources."""
    for dreams in sources:
        path = dreams.path
        # The suffix makes no difference: dreams.h5 and dreams.hdf5 would share their shards.
        if out.parent.resolve() == path.parent.resolve() and out.stem == path.stem:
            raise ConfigError(f"{out}: is one of the sets to read; choose another --out")
        refuse_sources([out], files_of(dreams))


def sources_of(dreams: DreamSet) -> list[dict[str, Any]]:
    """Return what the provenance of a derived set says of one that it was made from.

    That set comes first, then those that it was made from itself: a list, however long the history.
    """
    manifest = dreams.manifest
    origin = dict(manifest.provenance)
    earlier = origin.pop("sources", [])
    entry = {
        "name": dreams.path.name,
        "digest": manifest.digest(),
        "num_images": manifest.num_images,
        "synthesis": manifest.synthesis,
        "provenance": origin,
    }
    return [entry, *(earlier if isinstance(earlier, list) else [])]


def derived_provenance(sources: Sequence[DreamSet], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a set made from others: ``facts`` of this run, and of each source.

    It is synthetic if all sources are, and real if one is; where one does not say, neither is said
    of it. It is under the licenses of all of them.
    """
    origins = [dreams.manifest.provenance for dreams in sources]
    licenses = sorted({str(origin.get("license", "unspecified")) for origin in origins})
    derived: dict[str, Any] = {
        "license": " AND ".join(licenses),
        "sources": [source for dreams in sources for source in sources_of(dreams)],
    }
    known = {dreams.manifest.synthetic for dreams in sources}
    if False in known or None not in known:
        derived["synthetic"] = False not in known
    seconds = [origin.get("seconds") for origin in origins]
    if all(isinstance(value, int | float) for value in seconds):
        derived["seconds"] = sum(value for value in seconds if value is not None)
    return {**facts, **derived}


def _answers(dreams: DreamBatch, answers: str) -> tuple[float, float, float]:
    """Return the sums over rows of labels recognised, confidence and loss."""
    confidence = first_confidences(dreams.logits, answers).sum().item()
    share_right = float(recognised(dreams.logits, dreams.labels, answers).float().mean())
    return share_right * len(dreams), confidence, dreams.loss.double().sum().item()


def _quality(answers: Sequence[tuple[float, float, float]], num_images: int) -> dict[str, float]:
    names = ("teacher_accuracy", "mean_confidence", "mean_loss")
    sums = zip(*answers, strict=True)
    return {name: sum(values) / num_images for name, values in zip(names, sums, strict=True)}
