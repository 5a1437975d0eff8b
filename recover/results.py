"""Finished runs, read back from their folders; what is in them may be somebody else's."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recover.folder import RunFolder
from recover.report import RecoveryReport
from shared.errors import DreamSetError, IncompatibleError, InputFileError
from shared.manifest import parse_json

MOST_PLOTTED = 1e30  # what is beyond, or NaN, is no loss of a run that finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished run.

    Attributes:
        folder: Where it is.
        report: Its record; strings as the file has them.
        losses: (step, loss) of its metrics, ascending; possibly empty.
    """

    folder: Path
    report: RecoveryReport
    losses: tuple[tuple[float, float], ...]

    @property
    def origin(self) -> dict[str, Any]:
        """The provenance."""
        return self.report.provenance

    def fact(self, *path: str) -> Any:
        """Return what the provenance has at ``path``, None where it has nothing."""
        return self.report.fact(*path)


def find_results(paths: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """Return the finished runs in ``paths``, the least pruned first, and remarks on the others.

    Args:
        paths: Folders of runs, or of sweeps: folders of such folders.

    Raises:
        InputFileError: If one of them has no finished run in it, or one that cannot be read.
    """
    results: dict[Path, Result] = {}
    remarks = []
    for path in paths:
        folders = _run_folders(path)
        finished = [folder for folder in folders if RunFolder.to_read(folder).is_finished]
        for folder in folders:
            if folder not in finished:
                remarks.append(f"{folder} is not finished and left out")
                continue
            results[folder.resolve()] = read_result(folder)
            if not RunFolder(folder, {}).is_finished:
                remarks.append(f"{folder}: the run that is to replace this one is not finished")
        if not finished:
            raise InputFileError(
                f"{path}: no finished run in it; expected a folder of recover run or recover sweep"
            )
    return sorted(results.values(), key=_level), remarks


def _level(result: Result) -> tuple[float, float]:
    report = result.report
    return report.sparsity, 0.0 if report.sparsity else report.part_removed


def most_pruned(results: Sequence[Result]) -> Result:
    """Return the run whose student lacks most: zeros, or channels; among equals the last."""
    return max(reversed(results), key=lambda result: result.report.part_removed)


def require_one_teacher(results: Sequence[Result], advice: str) -> None:
    """Check that all runs have the same teacher.

    Raises:
        IncompatibleError: Naming the first two that have not, and the advice.
    """
    first = results[0]
    for other in results[1:]:
        if other.fact("teacher", "fingerprint") != first.fact("teacher", "fingerprint"):
            raise IncompatibleError(
                f"{other.folder}: a student of another teacher than {first.folder}; {advice}"
            )


def read_result(folder: Path) -> Result:
    """Return the finished run in ``folder``.

    Raises:
        InputFileError: If its report or its metrics cannot be read.
    """
    return Result(
        folder=folder,
        report=read_report(folder),
        losses=_read_losses(RunFolder.to_read(folder).metrics),
    )


def read_report(folder: Path) -> RecoveryReport:
    """Return the report in ``folder``.

    Raises:
        InputFileError: If it is missing or damaged.
    """
    path = RunFolder.to_read(folder).report
    try:
        record = parse_json(path.read_bytes())
    except (OSError, DreamSetError) as error:
        raise InputFileError(f"{path}: {error}") from error
    return RecoveryReport.from_json(record, str(path))


def _run_folders(path: Path) -> list[Path]:
    def is_run(folder: Path) -> bool:
        run = RunFolder.to_read(folder)
        return run.is_finished or run.checkpoint.exists()

    if is_run(path):
        return [path]
    if not path.is_dir():
        raise InputFileError(f"{path}: no such folder")
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and is_run(folder))


def _read_losses(path: Path) -> tuple[tuple[float, float], ...]:
    if not path.exists():
        return ()
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        losses = [(float(row["step"]), float(row["loss"])) for row in rows]
    except (OSError, ArithmeticError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputFileError(f"{path}: no metrics of recover run") from error
    return tuple(pair for pair in losses if all(abs(value) < MOST_PLOTTED for value in pair))
