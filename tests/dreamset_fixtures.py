"""Tiny dream sets for tests: built in milliseconds, the same every time."""

from pathlib import Path
from typing import Any

import torch

from shared.dreams import DreamBatch, concatenate
from shared.manifest import Manifest, shard_names
from shared.seeding import generator
from shared.shards import write_index, write_shard
from shared.spec import TeacherSpec
from shared.values import arrays_sha256

IMAGE_SHAPE = (3, 8, 8)
NUM_CLASSES = 4


def tiny_spec(**changes: Any) -> TeacherSpec:
    """A teacher of 4 classes of 8x8 color images."""
    facts: dict[str, Any] = {
        "architecture": "tiny",
        "num_classes": NUM_CLASSES,
        "image_shape": IMAGE_SHAPE,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "fingerprint": "ab" * 32,
        "class_names": ("red", "green", "blue", "gray"),
    }
    return TeacherSpec(**(facts | changes))


def tiny_dreams(
    num_images: int = 24,
    *,
    seed: int = 0,
    num_classes: int = NUM_CLASSES,
    image_shape: tuple[int, int, int] = IMAGE_SHAPE,
) -> DreamBatch:
    """Random images with labels 0, 1, 2, 3, 0, …; the logits agree with the labels."""
    draws = generator(seed, "tiny dreams")
    labels = torch.arange(num_images) % num_classes
    logits = torch.rand((num_images, num_classes), generator=draws)
    logits[torch.arange(num_images), labels] += 2
    return DreamBatch(
        images=torch.randint(
            0, 256, (num_images, *image_shape), generator=draws, dtype=torch.uint8
        ),
        labels=labels,
        logits=logits.half(),
        batch=(torch.arange(num_images) // 4).int(),
        loss=torch.rand(num_images, generator=draws),
    )


def write_dream_set(
    folder: Path,
    *,
    num_shards: int = 2,
    name: str = "dreams.h5",
    dreams: DreamBatch | None = None,
    spec: TeacherSpec | None = None,
    teacher: bytes | None = None,
    provenance: dict[str, Any] | None = None,
    synthesis: dict[str, Any] | None = None,
    compression: bool = False,
) -> Path:
    """Write a finished set of ``num_shards`` shards into ``folder``; return its index."""
    spec = spec or tiny_spec()
    dreams = dreams or tiny_dreams(num_classes=spec.num_classes, image_shape=spec.image_shape)
    synthesis = synthesis or {"method": "test", "steps": 3}
    index = folder / name
    shards = []
    parts = torch.arange(len(dreams)).tensor_split(num_shards)
    for number, (rows, shard) in enumerate(zip(parts, shard_names(index, num_shards), strict=True)):
        attributes = {
            "shard": number,
            "num_shards": num_shards,
            "teacher": spec.fingerprint,
            "synthesis": synthesis,
        }
        part = dreams.select(rows)
        shards.append(write_shard(folder / shard, part, attributes, compression=compression))
    manifest = Manifest(
        num_images=len(dreams),
        shards=tuple(shards),
        teacher=spec,
        synthesis=synthesis,
        provenance=provenance
        or {"versions": {"dreamforge": "0.1.0"}, "seconds": 1.5, "synthetic": True},
        quality={"teacher_accuracy": 1.0},
    )
    write_index(index, manifest, dreams.labels, teacher=teacher)
    return index


def all_rows(folder: Path, names: list[str]) -> DreamBatch:
    """The rows of several shards, read without an index."""
    from shared.shards import read_shard

    return concatenate([read_shard(folder / name) for name in names])


def write_packed_set(folder: Path) -> Path:
    """Write :func:`tiny_dreams` as one file; return its path."""
    dreams, path = tiny_dreams(), folder / "packed.h5"
    manifest = Manifest(
        num_images=len(dreams.labels),
        shards=(),
        teacher=tiny_spec(),
        arrays_sha256=arrays_sha256(dreams),
    )
    write_index(path, manifest, dreams.labels, dreams=dreams)
    return path
