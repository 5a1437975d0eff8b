"""How many dreams share a batch where nobody says: as many as usual, or as fit into memory.

The number decides the pixels. So it is chosen once: whoever continues a run takes the recorded
one, and it is lowered for want of memory only while no shard was made with it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from dreamforge.config import SynthesisConfig
from dreamforge.estimate import step_num_bytes
from dreamforge.forge import SynthesisResult
from dreamforge.overwrite import shards_at
from dreamforge.plan import plan_shards
from shared.device import num_bytes_free
from shared.errors import DreamSetError, OutOfMemoryError, is_out_of_memory
from shared.manifest import parse_json
from shared.shards import read_index, read_shard_attributes
from shared.teacher import Teacher

SHARE_OF_FREE = 0.5  # the arithmetic knows nothing of kernels' workspaces and fragmentation
LEAST = 2  # dreams; variances need that many


def settle_batch_size(
    teacher: Teacher,
    config: SynthesisConfig,
    device: torch.device,
    out: Path,
    *,
    num_sharing: int = 1,
    apart: bool = False,
    overwrite: bool = False,
) -> tuple[SynthesisConfig, str]:
    """Return the config with its batch size, and a note if that is not the usual one.

    Args:
        teacher: What is inverted.
        config: Returned as it is if it says the batch size.
        device: Where the run would compute.
        out: Path of the index; the choice of whoever began the set there stands.
        num_sharing: Processes that share the device's memory.
        apart: Whether other workers choose for themselves: all then take the usual one, since
            their memory may differ.
        overwrite: Whether the set there is to go: then nothing of it counts.
    """
    if config.batch_size is not None:
        return config, ""
    usual = config.resolve(teacher.spec.image_shape).batch_size
    chosen = None if overwrite else recorded_batch_size(out, teacher, config.num_images)
    why = f"as {out} was begun"
    if chosen is None and not apart:
        chosen, why = fitting_batch_size(teacher, config, device, num_sharing), "to fit into memory"
    note = f"batches of {chosen} instead of {usual}, {why}" if chosen not in (None, usual) else ""
    return dataclasses.replace(config, batch_size=chosen), note


def recorded_batch_size(out: Path, teacher: Teacher, num_images: int) -> int | None:
    """Return the batch size of the set, finished or not, that lies at ``out``; None for none.

    Sets of another teacher do not count, nor sizes beyond ``num_images``, which no run records.
    """
    for path in (out, *shards_at(out)):
        try:
            fingerprint, synthesis = _recorded_facts(path, is_index=path == out)
        except DreamSetError:
            continue
        if fingerprint != teacher.spec.fingerprint or not isinstance(synthesis, dict):
            continue
        found = synthesis.get("batch_size")
        if type(found) is int and LEAST <= found <= num_images:
            return found
    return None


def _recorded_facts(path: Path, *, is_index: bool) -> tuple[object, object]:
    """Return the fingerprint of the teacher and the synthesis that an index or shard records."""
    if is_index:
        manifest = read_index(path).manifest
        return manifest.teacher.fingerprint, manifest.synthesis
    found = read_shard_attributes(path)
    return found.get("teacher"), parse_json(str(found.get("synthesis", "")).encode())


def fitting_batch_size(
    teacher: Teacher, config: SynthesisConfig, device: torch.device, num_sharing: int = 1
) -> int:
    """Return the usual batch size, or the largest power of two below it that fits into memory.

    Args:
        teacher: What is inverted.
        config: Its ``batch_size`` is looked at only if it is set: then it is the usual one.
        device: Half of its free memory may be used.
        num_sharing: Processes that share that memory.
    """
    usual = config.resolve(teacher.spec.image_shape).batch_size or LEAST
    num_bytes = SHARE_OF_FREE * num_bytes_free(device) / num_sharing
    most = int(num_bytes // step_num_bytes(teacher, config, device))
    return usual if usual <= most else max(LEAST, 1 << max(0, most.bit_length() - 1))


def with_smaller_batches(
    run: Callable[[SynthesisConfig], SynthesisResult],
    teacher: Teacher,
    config: SynthesisConfig,
    out: Path,
    *,
    may_lower: bool,
) -> SynthesisResult:
    """Return ``run(config)``, tried with half the batch size when that runs out of memory.

    Args:
        run: Makes the set of a resolved config.
        teacher: For its image shape.
        config: Not resolved but for its ``batch_size``: the size of shards depends on that.
        out: Path of the index.
        may_lower: False where the user or other workers count on this batch size.

    Returns:
        The result, with a note if the batch size was lowered.

    Raises:
        OutOfMemoryError: If it may not be lowered, or a shard has been made with it.
    """
    notes: tuple[str, ...] = ()
    while True:
        resolved = config.resolve(teacher.spec.image_shape)
        try:
            result = run(resolved)
            return dataclasses.replace(result, notes=notes + result.notes)
        except (MemoryError, OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback would keep the failed batch in memory.
        size = resolved.batch_size or LEAST
        num_made = sum(shard.path.exists() for shard in plan_shards(resolved, out))
        if num_made or not may_lower or size // 2 < LEAST:
            raise OutOfMemoryError(_advice(size, num_made))
        config = dataclasses.replace(config, batch_size=size // 2)
        notes = (f"out of memory with batches of {size}: made with batches of {size // 2}",)


def _advice(size: int, num_made: int) -> str:
    if num_made:
        return (
            f"out of memory with batches of {size}, and {num_made} shards are made of such: free "
            "some memory, or begin anew with a smaller --batch-size and --overwrite"
        )
    return f"out of memory with batches of {size}: lower --batch-size, or free some memory"
