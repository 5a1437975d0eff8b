"""The metrics of a run, one JSON object a line, appended while it goes."""

import json
from collections.abc import Mapping
from pathlib import Path

from shared.files import naming, write_text


class Journal:
    """Rows of ``metrics.jsonl``, each with a ``step``.

    Args:
        path: Created with the first row; None keeps none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; it is in the file when this returns."""
        if self._path is None:
            return
        with naming(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")

    def has_rows(self) -> bool:
        """Tell whether the file begins with a row of a run."""
        if self._path is None:
            return False
        try:
            with self._path.open(encoding="utf-8") as stream:
                row = json.loads(stream.readline())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(row, dict) and {"step", "loss", "lr"} <= row.keys()

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``, and whatever follows a line that is no row."""
        if self._path is None or not self._path.exists():
            return
        kept = []
        for line in self._path.read_bytes().splitlines():
            if not _is_row_until(step, line):
                break
            kept.append(line.decode() + "\n")
        write_text(self._path, "".join(kept))


def _is_row_until(step: int, line: bytes) -> bool:
    try:
        row = json.loads(line)
        return bool(row["step"] <= step)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return False  # cut off, or damaged
