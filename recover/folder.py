"""The output folder: what is in it while a run goes, when it was killed, and when it is done."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recover.journal import Journal
from recover.lock import LOCK_NAME, alone_in
from recover.next_run import (
    NEXT_NAME,
    begin_next,
    begun_with,
    clear_next,
    discard_next,
    is_moving,
    move_out,
    next_run,
)
from recover.report import StageRecord
from recover.state import read_state, write_state
from shared.errors import ConfigError, DreamforgeError, IncompatibleError
from shared.files import remove_stale_temporaries, write_json

CONTENTS = (
    "contents of --eval-data",
    "contents of --student-weights",
    "contents of --unlabeled",
)
FILES = ("student.safetensors", "metrics.jsonl", "checkpoint.pt", "budget.json", "report.json")


class RunFolder:
    """Paths of a run's files, and the checkpoint that a killed run leaves.

    ``report.json`` is written last: a folder with a report is finished, one with a checkpoint
    alone is not. A run that overwrites a finished one works in a folder inside, until it is
    finished itself (:mod:`recover.next_run`): the other paths are those of that folder then.

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
        inputs: Files that the run reads, which it must not replace; None for one that is no file.
    """

    def __init__(
        self,
        path: Path,
        arguments: Mapping[str, Any],
        inputs: Sequence[Path | str | None] = (),
    ) -> None:
        self.path = path
        self._arguments = dict(arguments)
        self._inputs = tuple(Path(each) for each in inputs if each is not None)
        self._work_in(next_run(path) or path)

    def _work_in(self, place: Path) -> None:
        self._place = place
        files = (place / name for name in FILES)
        self.student, self.metrics, self.checkpoint, self.budget, self.report = files

    @classmethod
    def to_read(cls, path: Path) -> "RunFolder":
        """Return the folder for reading: of the last run in it that is finished, if one is."""
        folder = cls(path, {})
        if not folder.is_finished:
            folder._work_in(path)
        elif is_moving(path):
            folder.student, folder.metrics, folder.budget = (
                file if file.exists() else path / file.name
                for file in (folder.student, folder.metrics, folder.budget)
            )
        return folder

    @property
    def _files(self) -> tuple[Path, ...]:
        return (self.student, self.metrics, self.checkpoint, self.budget, self.report)

    @property
    def is_replacing(self) -> bool:
        """Whether the run is to take the place of a finished one, which is there yet."""
        return self._place != self.path

    @property
    def is_promised(self) -> bool:
        """Whether that run has nothing to go on with yet."""
        return self.is_replacing and not (self.checkpoint.exists() or self.is_finished)

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds a finished run."""
        return self.report.is_file()

    def refuse_finished(self, *, overwrite: bool) -> None:
        """Raise a ConfigError if the folder cannot take a run; touch nothing."""
        refuse_no_folder(self.path)
        if self.report.exists() and not overwrite:
            raise ConfigError(
                f"--out {self.path}: holds a finished run; choose another folder or --overwrite it"
            )
        self.refuse_to_lose(overwrite=overwrite)

    def refuse_to_lose(self, *, overwrite: bool) -> None:
        """Raise a ConfigError if a run here would replace what it reads, or what no run made.

        Args:
            overwrite: Whatever has the name of a run's file may go, but for what it reads.
        """
        for file in (*self._files, *(self.path / file.name for file in self._files)):
            if any(_is_same(file, source) for source in self._inputs):
                raise ConfigError(
                    f"--out {self.path}: its {file.name} is what this run starts from; choose "
                    "another folder"
                )
        if self.is_replacing:
            return
        # One that was killed before its first checkpoint leaves its lock, or of earlier versions
        # nothing but rows.
        ours = (self.report, self.checkpoint, self.path / LOCK_NAME)
        found = [file.name for file in (self.student, self.metrics) if file.exists()]
        if found == [self.metrics.name] and Journal(self.metrics).has_rows():
            return
        if found and not overwrite and not any(file.exists() for file in ours):
            raise ConfigError(
                f"--out {self.path}: found {found[0]} without a report or a checkpoint, expected a "
                "run's folder or a new one; choose another folder or --overwrite it"
            )

    @contextmanager
    def begin(
        self, *, overwrite: bool, record: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any] | None]:
        """Make the folder ready and yield the state of the unfinished run in it, if any.

        Until the block ends, no other process can begin here.

        Args:
            overwrite: Replace an earlier run's files (no others): of a finished one when this one
                is finished, of an unfinished one now. Where the block raises before there is
                anything to go on with, the finished one has its folder for itself again, unless
                an earlier call has begun to replace it.
            record: Of ``--budget``, for a run that overwrites.

        Raises:
            CheckpointError: If the unfinished run's state is damaged.
            ConfigError: If the folder holds a finished run, or is a file, or as
                :meth:`refuse_to_lose`.
            DreamforgeError: If another process is at work on it.
            IncompatibleError: If it holds an unfinished run of other arguments.
        """
        self.refuse_finished(overwrite=overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        with alone_in(self.path):
            self._work_in(next_run(self.path) or self.path)  # whoever was in here may be done
            self.refuse_finished(overwrite=overwrite)
            if overwrite:
                self._begin_anew(record)
            state = self._state()
            try:
                yield state
            except Exception:
                if overwrite and self.is_promised:
                    discard_next(self.path)
                    self._work_in(self.path)
                raise

    def promise(self, record: Mapping[str, Any] | None = None) -> None:
        """Begin in the place of what is here, and leave the work to a later :meth:`begin`.

        Args:
            record: Of ``--budget``, for the new run.

        Raises:
            ConfigError, DreamforgeError: As :meth:`begin`.
        """
        with self.begin(overwrite=True, record=record) as state:
            assert state is None, "something is left of the earlier run"

    def withdraw(self) -> None:
        """Undo :meth:`promise`, where the finished run that was to be replaced is there."""
        with suppress(OSError, DreamforgeError), alone_in(self.path):
            self._work_in(next_run(self.path) or self.path)
            if self.is_promised:
                discard_next(self.path)
                self._work_in(self.path)

    def _state(self) -> dict[str, Any] | None:
        """Return what the unfinished run here left, and remove what is of no use."""
        for file in self._files:
            remove_stale_temporaries(file)
        if self.checkpoint.exists():
            state = read_state(self.checkpoint)
            self._refuse_other_arguments(state["arguments"])
            return state
        self.metrics.unlink(missing_ok=True)
        if self.is_replacing:
            self.refuse_other_arguments()
        return None

    def _begin_anew(self, record: Mapping[str, Any] | None) -> None:
        if self.is_finished:
            self.finish()  # of one that replaces another, perhaps, and was killed before the end
        discard_next(self.path)
        self._work_in(self.path)
        if self.report.exists() or self.student.exists():
            records = {} if record is None else {self.budget.name: record}
            self._work_in(begin_next(self.path, self._arguments, records))
            return
        for file in self._files:
            file.unlink(missing_ok=True)
        if record is not None:
            write_json(self.budget, record)

    def save(self, state: Mapping[str, Any], stages: Mapping[str, StageRecord]) -> None:
        """Write the checkpoint, atomically: the state of a distillation, and what was judged."""
        write_state(self.checkpoint, state, arguments=self._arguments, stages=stages)

    def finish(self) -> None:
        """Remove the checkpoint; put the results into the place of an earlier run's."""
        self.checkpoint.unlink(missing_ok=True)
        if self.is_replacing:
            move_out(self.path, [file.name for file in self._files])
            self._work_in(self.path)

    def tidy(self) -> None:
        """End a finished run that may have been killed just before it did so itself."""
        left = (self.checkpoint, self.path / LOCK_NAME, self.path / NEXT_NAME)
        if not any(file.exists() for file in left):
            return
        # Where nothing can be written nothing needs to be; whoever is at work here does it.
        with suppress(OSError, DreamforgeError), alone_in(self.path):
            self._work_in(next_run(self.path) or self.path)
            if self.is_finished:
                self.finish()
                clear_next(self.path)

    def unfinished_arguments(self) -> dict[str, Any] | None:
        """Return those of the unfinished run here; None where there is none, or nobody knows.

        Raises:
            CheckpointError: If its state is damaged.
        """
        if not self.checkpoint.exists():
            return begun_with(self._place) if self.is_replacing else None
        arguments: dict[str, Any] = read_state(self.checkpoint)["arguments"]
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


def refuse_no_folder(path: Path) -> None:
    """Raise a ConfigError if something at ``path``, or above it, is no folder."""
    there = next(filter(os.path.lexists, (path, *path.parents)))
    if not there.is_dir():
        found = "a file" if there.exists() else "a symlink that leads nowhere"
        raise ConfigError(f"--out {there}: found {found}, expected a folder")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return False


def changed_arguments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return ``--lr 0.05 (now 0.01)`` for everything that differs, sorted by name.

    What only one of them says of the contents of files is no difference: earlier versions did not
    record it.
    """
    now = json.loads(json.dumps(now))  # as a file has it: lists for tuples
    unknown = {name for name in CONTENTS if name not in before or name not in now}
    return [
        f"{name} {before.get(name)} (now {now.get(name)})"
        for name in sorted((before.keys() | now.keys()) - unknown)
        if before.get(name) != now.get(name)
    ]
