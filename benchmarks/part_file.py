"""The checkpoint beside a teacher that is being trained; removed when that is done."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training import Training

from recover.folder import changed_arguments
from shared.checkpoint import load_state, save_state
from shared.errors import CheckpointError, IncompatibleError

SECONDS_BETWEEN = 20.0  # so that writing a large network does not slow down short epochs


class PartFile:
    """``teacher.safetensors.part`` of ``teacher.safetensors``, and the clock of the training.

    Args:
        out: The teacher to be.
        arguments: Whatever decides the weights, as JSON scalars by the name users know.
    """

    def __init__(self, out: Path, arguments: Mapping[str, Any]) -> None:
        self._path = part_path(out)
        self._arguments = dict(arguments)
        self._earlier = 0.0
        self._began = self._saved = time.monotonic()

    @property
    def seconds_so_far(self) -> float:
        """Seconds of all sessions together."""
        return self._earlier + time.monotonic() - self._began

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return time.monotonic() - self._saved >= SECONDS_BETWEEN

    def load(self, training: Training, *, overwrite: bool) -> None:
        """Let the training go on from the file, if there is one.

        Args:
            training: At its beginning.
            overwrite: Ignore a file of other arguments; the next checkpoint takes its place.

        Raises:
            CheckpointError: If it cannot be read, or is something else.
            IncompatibleError: If it is of other arguments.
        """
        if not self._path.exists():
            return
        state = load_state(self._path)
        if not isinstance(state, dict) or not isinstance(state.get("arguments"), str):
            raise CheckpointError(f"{self._path}: not a training state; remove it to start afresh")
        changes = changed_arguments(json.loads(state["arguments"]), self._arguments)
        if not changes:
            training.load_state(state)
            self._earlier = state["seconds"]
        elif not overwrite:
            raise IncompatibleError(
                f"{self._path}: an unfinished training with {', '.join(changes[:3])}; repeat its "
                "command to go on, or start another with --overwrite"
            )

    def save(self, training: Training) -> None:
        """Write the file, atomically."""
        facts = {"arguments": json.dumps(self._arguments), "seconds": self.seconds_so_far}
        save_state(self._path, training.state() | facts)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the teacher is in place."""
        self._path.unlink(missing_ok=True)


def part_path(out: Path) -> Path:
    """Return where the checkpoint of an unfinished training is."""
    return out.with_name(f"{out.name}.part")
