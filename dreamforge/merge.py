"""Several dream sets of one teacher become one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamforge.assemble import Rows, derived_provenance, refuse_itself, write_set
from dreamforge.overwrite import files_of
from shared.dreams import DreamBatch, concatenate
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError
from shared.manifest import Manifest, printable
from shared.progress import ProgressCallback, ignore_progress


def merge(
    paths: Sequence[Path],
    out: Path,
    *,
    facts: Mapping[str, Any] | None = None,
    shard_size: int | None = None,
    compression: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Manifest:
    """Write one set with the rows of several, in the given order.

    Batches are numbered on, so that rows of different sources never seem to be of one batch.
    ``provenance["sources"]`` says what each source was; ``synthesis`` is theirs if they agree.

    Args:
        paths: Indexes; at least two, no set twice.
        out: The new index.
        facts: Provenance of this run.
        shard_size: As in :func:`dreamforge.assemble.write_set`, like the rest.
        compression: Gzip the arrays.
        overwrite: Replace what is at ``out``.
        progress: Told after every shard.

    Raises:
        ConfigError: If there is nothing to merge, or ``out`` is one of the sources.
        IncompatibleError: If teachers, their preprocessing or image shapes differ.
        DreamSetError: If a source is damaged.
    """
    if len(paths) < 2:
        raise ConfigError(f"merge: found {len(paths)} sets, expected at least two")
    sources = [DreamSet.open(path) for path in paths]
    refuse_itself(out, sources)
    digests = [dreams.manifest.digest() for dreams in sources]
    for place, dreams in enumerate(sources):
        _compare(sources[0], dreams)
        if digests[place] in digests[:place]:
            raise ConfigError(
                f"{dreams.path}: the same dreams as another of the sets; leave it out"
            )
    teachers = [dreams.manifest.teacher for dreams in sources]
    named = next((teacher for teacher in teachers if teacher.class_names), teachers[0])
    configs = [dreams.manifest.synthesis for dreams in sources]
    blobs = (dreams.teacher_blob() for dreams in sources)
    return write_set(
        out,
        Rows(
            num_images=sum(dreams.num_images for dreams in sources),
            read=_Joined(sources).read,
            teacher=replace(teachers[0], class_names=named.class_names),
            synthesis=_common(configs),
            provenance=derived_provenance(sources, facts or {}),
            teacher_blob=next((blob for blob in blobs if blob is not None), None),
            sources=[path for dreams in sources for path in files_of(dreams)],
        ),
        shard_size=shard_size,
        compression=compression,
        overwrite=overwrite,
        progress=progress,
    )


class _Joined:
    """The rows of several sets, numbered through."""

    def __init__(self, sources: Sequence[DreamSet]) -> None:
        self._sources = sources
        self._starts = np.cumsum([0, *(dreams.num_images for dreams in sources)]).tolist()
        numbers = [max(int(part.max()) for part in source.columns("batch")) for source in sources]
        self._offsets = np.cumsum([0, *(number + 1 for number in numbers)]).tolist()

    def read(self, start: int, stop: int) -> DreamBatch:
        parts = []
        for place, dreams in enumerate(self._sources):
            first, last = self._starts[place], self._starts[place + 1]
            low, high = max(start, first), min(stop, last)
            if low < high:
                part = dreams.read(low - first, high - first)
                batch = (part.batch + self._offsets[place]).to(torch.int32)
                parts.append(replace(part, batch=batch))
        return concatenate(parts)


def _compare(first: DreamSet, other: DreamSet) -> None:
    a, b = first.manifest.teacher, other.manifest.teacher
    for name, expected, found in (
        ("teacher", a.fingerprint, b.fingerprint),
        ("image shape", a.image_shape, b.image_shape),
        ("number of classes", a.num_classes, b.num_classes),
        ("mean", a.mean, b.mean),
        ("std", a.std, b.std),
    ):
        if found != expected:
            raise IncompatibleError(
                f"{other.path}: {name} {printable(found, 40)}, that of {first.path} is "
                f"{printable(expected, 40)}; only sets of one teacher can be merged"
            )


def _common(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what all configs agree on; where they do not, the sources in the provenance tell."""
    return {
        name: value
        for name, value in configs[0].items()
        if all(name in config and config[name] == value for config in configs)
    }
