"""How long a run has taken so far, over all its processes and interruptions.

A hidden file beside the set while it is being made, one JSON object per shard. Best effort: it
decides nothing but ``seconds``, ``devices`` and ``attempts`` in the provenance, so a full disk or a
line that two machines wrote at once costs a figure, not a run.
"""

import contextlib
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.manifest import canonical_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the journal of a run adds up to.

    Attributes:
        seconds: Of all its processes together; None if nothing is recorded.
        devices: On what, each once, sorted.
        attempts: How often a batch was begun, by its number as text, where it was not once.
    """

    seconds: float | None
    devices: tuple[str, ...]
    attempts: Mapping[str, int]


class Journal:
    """Appends to, reads and removes ``.dreams.journal.jsonl`` of ``dreams.h5``.

    Args:
        out: The index of the set.
        attributes: What decides the set; lines of other runs are not counted.
        device: On what this process computes, in words.
    """

    def __init__(self, out: Path, attributes: Mapping[str, Any], device: str) -> None:
        self.path = out.with_name(f".{out.stem}.journal.jsonl")
        self._run = hashlib.sha256(canonical_json(dict(attributes))).hexdigest()[:16]
        self._device = device

    @contextlib.contextmanager
    def timing(self, shard: int | None) -> Iterator[dict[str, Any]]:
        """Record how long the block took, even if it was interrupted.

        Args:
            shard: Which one it makes; None for what comes before all of them.

        Yields:
            More facts for the line, to be filled in.
        """
        started = time.monotonic()
        facts: dict[str, Any] = {"finished": False}
        try:
            yield facts
            facts["finished"] = True
        finally:
            self._append({"shard": shard, "seconds": time.monotonic() - started, **facts})

    def read(self) -> Spent:
        """Add up what the processes of this run have recorded."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        rows = [row for row in map(_parse, text.splitlines()) if row.get("run") == self._run]
        seconds = [row["seconds"] for row in rows]
        devices = {str(row["device"]) for row in rows if row.get("device")}
        return Spent(
            seconds=sum(seconds) if seconds else None,
            devices=tuple(sorted(devices)),
            attempts=_attempts(rows),
        )

    def remove(self) -> None:
        """Remove the file, if it is there and may be removed."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _append(self, row: Mapping[str, Any]) -> None:
        who = {"run": self._run, "device": self._device, "host": socket.gethostname()}
        line = json.dumps({**row, **who, "process": os.getpid()}) + "\n"
        # One write of one line to a file opened for appending: processes do not mix them up.
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            descriptor = os.open(self.path, flags, 0o666)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


def _attempts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    recorded = [row["attempts"] for row in rows if isinstance(row.get("attempts"), dict)]
    pairs = [pair for attempts in recorded for pair in attempts.items()]
    numbers = sorted((int(batch), made) for batch, made in pairs if batch.isdecimal())
    return {str(batch): made for batch, made in numbers if type(made) is int}


def _parse(line: str) -> dict[str, Any]:
    """Return the object of a line, or an empty one if it was cut off or garbled."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(row, dict) or type(row.get("seconds")) not in (int, float):
        return {}
    return row if math.isfinite(row["seconds"]) and row["seconds"] >= 0 else {}
