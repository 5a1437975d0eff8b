"""The start that all shards of a generated set have in common.

It depends on the teacher, the config and the device alone, so every worker would learn the same;
whoever comes first keeps it in a hidden file beside the set, for itself after an interruption and
for the others. The file goes when the index is written.
"""

import contextlib
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamforge.fast_engine import FastEngine, Start
from dreamforge.stream_stats import StreamStats
from shared.checkpoint import load_state, save_state
from shared.errors import CheckpointError
from shared.files import remove_stale_temporaries
from shared.manifest import canonical_json
from shared.progress import Progress, ProgressCallback, ignore_progress

SECONDS_BETWEEN_SAVES = 30.0


class StartFile:
    """Reads, writes and removes ``.dreams.start.pt`` of ``dreams.h5``.

    Args:
        out: The index of the set.
        attributes: What decides the set; what was learned for other ones is not read.
    """

    def __init__(self, out: Path, attributes: Mapping[str, Any]) -> None:
        self.path = out.with_name(f".{out.stem}.start.pt")
        self._run = hashlib.sha256(canonical_json(dict(attributes))).hexdigest()

    def read(self, device: torch.device) -> Start | None:
        """Return what is there of this run, on ``device``; None for nothing, or damage."""
        remove_stale_temporaries(self.path)
        try:
            state = load_state(self.path)
        except CheckpointError:
            return None
        if not isinstance(state, dict) or state.get("run") != self._run:
            return None
        stats = StreamStats(
            moments=tuple(
                (mean.to(device), square.to(device)) for mean, square in state["moments"]
            ),
            num_batches=state["num_batches"],
        )
        return Start(weights=_on(device, state["weights"]), stats=stats)

    def write(self, start: Start) -> None:
        """Replace the file, atomically."""
        cpu = torch.device("cpu")
        state = {
            "run": self._run,
            "num_batches": start.stats.num_batches,
            "weights": _on(cpu, start.weights),
            "moments": tuple(_on(cpu, pair) for pair in start.stats.moments),
        }
        save_state(self.path, state)

    def remove(self) -> None:
        """Remove the file, if it is there and may be removed."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def learn_start(
    engine: FastEngine, file: StartFile, progress: ProgressCallback = ignore_progress
) -> Start:
    """Return the start that every shard begins with, from the file or by learning the rest of it.

    What is learned is a function of the number of batches alone, so a process that finds the file
    further than itself goes on from there.

    Args:
        engine: Of the run.
        file: Written every half minute, and at the end.
        progress: Called after every batch.

    Raises:
        DreamforgeError: If a batch diverges.
    """
    num_batches = engine.config.meta_batches
    start = file.read(engine.device) or engine.initial
    saved = time.monotonic()
    while start.stats.num_batches < num_batches:
        adapted = engine.learn(start)
        start = adapted.next_start
        learned = start.stats.num_batches
        progress(
            Progress(
                stage="learn the start",
                done=learned,
                total=num_batches,
                unit="batches",
                facts=adapted.terms,
            )
        )
        if learned == num_batches or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
            start = _save(file, start, engine.device)
            saved = time.monotonic()
    return start


def _save(file: StartFile, start: Start, device: torch.device) -> Start:
    found = file.read(device)
    if found is not None and found.stats.num_batches >= start.stats.num_batches:
        return found  # another worker was faster
    file.write(start)
    return start


def _on(device: torch.device, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in tensors)
