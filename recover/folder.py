"""The output folder: what is in it while a run goes, when it was killed, and when it is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.checkpoint import load_state, save_state
from shared.errors import ConfigError, IncompatibleError
from shared.files import remove_stale_temporaries


class RunFolder:
    """Paths of a run's files, and the checkpoint that a killed run leaves.

    ``report.json`` is written last: a folder with a report is finished, one with a checkpoint
    alone is not.

    Attributes:
        path: The folder.
        student: The result.
        report: The report; its presence means that the run is finished.
        metrics: One row per few steps.
        checkpoint: Present only while the run is unfinished.
        budget: How many steps ``--budget`` chose, written before the first.

    Args:
        path: The folder; made by :meth:`begin`.
        arguments: Whatever decides the result, as JSON scalars by the name users know.
    """

    def __init__(self, path: Path, arguments: Mapping[str, Any]) -> None:
        self.path = path
        self.student = path / "student.safetensors"
        self.report = path / "report.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.budget = path / "budget.json"
        self._arguments = dict(arguments)

    @property
    def _files(self) -> tuple[Path, ...]:
        return (self.report, self.checkpoint, self.metrics, self.student, self.budget)

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds a finished run."""
        return self.report.is_file()

    def refuse_finished(self, *, overwrite: bool) -> None:
        """Raise a ConfigError if the folder cannot take a run; touch nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--out {self.path}: found a file, expected a folder")
        if self.report.exists() and not overwrite:
            raise ConfigError(
                f"--out {self.path}: holds a finished run; choose another folder or --overwrite it"
            )

    def begin(self, *, overwrite: bool) -> dict[str, Any] | None:
        """Make the folder ready and return the state of the unfinished run in it, if any.

        Args:
            overwrite: Remove an earlier run's files (no others) first.

        Raises:
            ConfigError: If the folder holds a finished run, or is a file.
            IncompatibleError: If it holds an unfinished run of other arguments.
        """
        self.refuse_finished(overwrite=overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self._files:
            remove_stale_temporaries(file)
            if overwrite:
                file.unlink(missing_ok=True)
        if not self.checkpoint.exists():
            self.metrics.unlink(missing_ok=True)
            return None
        state: dict[str, Any] = load_state(self.checkpoint)
        self._refuse_other_arguments(json.loads(state["arguments"]))
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint, atomically."""
        save_state(self.checkpoint, {**state, "arguments": json.dumps(self._arguments)})

    def finish(self) -> None:
        """Remove the checkpoint: the results are in place."""
        self.checkpoint.unlink(missing_ok=True)

    def unfinished_arguments(self) -> dict[str, Any] | None:
        """Return those of the unfinished run here; None where there is none."""
        if not self.checkpoint.exists():
            return None
        arguments: dict[str, Any] = json.loads(load_state(self.checkpoint)["arguments"])
        return arguments

    def refuse_other_arguments(self) -> None:
        """Raise an IncompatibleError if an unfinished run here has others; touch nothing."""
        before = self.unfinished_arguments()
        if before is not None:
            self._refuse_other_arguments(before)

    def _refuse_other_arguments(self, before: Mapping[str, Any]) -> None:
        changes = changed_arguments(before, self._arguments)
        if changes:
            raise IncompatibleError(
                f"--out {self.path}: holds an unfinished run with {', '.join(changes[:3])}; "
                "repeat its command to go on, or start again with --overwrite"
            )


def changed_arguments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return ``--lr 0.05 (now 0.01)`` for everything that differs, sorted by name."""
    now = json.loads(json.dumps(now))  # as a file has it: lists for tuples
    return [
        f"{name} {before.get(name)} (now {now.get(name)})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
