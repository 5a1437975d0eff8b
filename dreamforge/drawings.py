"""Drawn images become a transfer set: for networks that cannot be inverted, and where no image is.

They show none of the classes. What a teacher's layers make of them can be taught all the same, and
its answers to images that are no photographs (benchmarks/RESULTS.md, "Without BatchNorm").
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamforge.assemble import Rows, answered, write_set, written
from dreamforge.config import STARTS
from dreamforge.embedding import recorded
from dreamforge.noise import initial_inputs
from dreamforge.overwrite import refuse_inputs
from shared.dreams import DreamBatch
from shared.errors import ConfigError
from shared.images import to_images
from shared.manifest import Manifest
from shared.progress import ProgressCallback, ignore_progress
from shared.seeding import generator
from shared.teacher import Teacher

_TOGETHER = 64  # images whose variance is one: that of all of them, so that each has its contrast


def draw(
    teacher: Teacher,
    num_images: int,
    out: Path,
    *,
    kind: str = "scenes",
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    shard_size: int | None = None,
    compression: bool = False,
    embed_teacher: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Manifest:
    """Write a set of drawn images, labeled by the teacher; nothing of it is inverted.

    Image ``i`` depends on the seed, the kind, ``i`` and the teacher's mean and std alone, so that a
    larger set begins with the images of a smaller one. Interrupted, the same call goes on from the
    last whole shard.

    Args:
        teacher: Answers, where it is.
        num_images: At least 1.
        out: The new index.
        kind: ``scenes``, ``natural``, ``pink`` or ``white``, see
            :func:`dreamforge.noise.initial_inputs`.
        seed: Of the draws.
        facts: Provenance of this run.
        shard_size: As in :func:`dreamforge.assemble.write_set`, like the rest.
        compression: Gzip the arrays.
        embed_teacher: Put the teacher's weights into the index.
        overwrite: Replace what is at ``out``.
        progress: Told how many images are answered.

    Raises:
        ConfigError: If something is at ``out``, or a number makes no sense.
        CheckpointError: If the teacher's logits are not finite, or too large for float16.
    """
    if kind not in STARTS:
        raise ConfigError(f"--init: found {kind!r}, expected one of {', '.join(STARTS)}")
    if num_images < 1:
        raise ConfigError(f"--n: found {num_images}, expected at least 1")
    refuse_inputs(out, [teacher.spec.path])
    spec, blob = recorded(teacher, embed=embed_teacher)

    def read(start: int, stop: int) -> DreamBatch:
        first, last = start // _TOGETHER, -(-stop // _TOGETHER)
        images = torch.cat([_group(teacher, kind, seed, number) for number in range(first, last)])
        offset = first * _TOGETHER
        chosen = images[start - offset : stop - offset]
        return answered(teacher, chosen, start, f"{kind} images", written(progress, num_images))

    return write_set(
        out,
        Rows(
            num_images=num_images,
            read=read,
            teacher=spec,
            synthesis={"method": "draw", "init": kind, "seed": seed},
            provenance={"synthetic": True, **(facts or {})},
            teacher_blob=blob,
            decided_by={"draw": kind, "seed": seed, "device": str(teacher.device)},
        ),
        shard_size=shard_size,
        compression=compression,
        overwrite=overwrite,
        progress=progress,
    )


def _group(teacher: Teacher, kind: str, seed: int, number: int) -> Tensor:
    """Return uint8 images ``(64, C, H, W)``: those that are drawn together, the ``number``-th."""
    draws = generator(seed, "draw", kind, number)
    inputs = initial_inputs(kind, _TOGETHER, teacher.spec.image_shape, draws)
    return to_images(teacher.denormalize(inputs).clamp(0, 1))
