"""One run per level, side by side in one folder: finished ones stay, interrupted ones go on."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recover.config import RecoverConfig
from recover.finished import arguments_of, asked_arguments
from recover.folder import RunFolder, changed_arguments, refuse_no_folder
from recover.lock import alone_in
from recover.pipeline import recover_student
from recover.report import RecoveryReport
from recover.results import Result, read_report, read_result
from recover.starts import choose_start, is_choosy
from shared.begun import begun
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.evaldata import EvalData
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.teacher import Teacher
from shared.workers import Worker

FINISHED, INTERRUPTED, WAITING = "finished", "interrupted", "to do"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One sparsity of a sweep, or one fraction of channels.

    Attributes:
        number: Position in the sweep: what workers share the levels by.
        config: Of its run.
        folder: Of its run.
        state: ``finished``, ``interrupted`` or ``to do``.
        arguments: What decides its result, as far as it is known.
        inputs: Files that its run reads, which it must not replace.
    """

    number: int
    config: RecoverConfig
    folder: Path
    state: str
    arguments: Mapping[str, Any]
    inputs: Sequence[str | None]

    def promise(self, config: RecoverConfig | None = None) -> None:
        """Begin in the place of what is in the folder, if anything is.

        Args:
            config: With the start that was chosen, which the level's own may not have.
        """
        if self.folder.exists():
            start = {} if config is None else {"--warm-start": config.warm_start}
            RunFolder(self.folder, {**self.arguments, **start}, self.inputs).promise()

    def changes_since(self, report: RecoveryReport) -> list[str]:
        """Return what a finished run has otherwise than this level, wherever it started."""
        nowhere = {"--warm-start": None}
        before = arguments_of(report) | nowhere
        return changed_arguments(before, {**self.arguments, **nowhere})

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that become zero."""
        return self.config.sparsity

    @property
    def label(self) -> str:
        """What is pruned, in words."""
        channels = self.config.channels
        if channels is not None:
            return f"{100 * channels:.4g} % of channels"
        return f"{100 * self.sparsity:.4g} %"


def folder_name(config: RecoverConfig) -> str:
    """Return ``s0.95``, or ``c0.5`` for a level of channels."""
    if config.channels is not None:
        return f"c{config.channels:g}"
    return f"s{config.sparsity:g}"


def starts_warm(
    configs: Sequence[RecoverConfig], worker: Worker, out: Path, *, overwrite: bool
) -> bool:
    """Return whether levels start from each other where nobody says.

    They end at more accuracy that way for the same steps (benchmarks/RESULTS.md), so they do where
    they can: those of one worker, and channels that are not cut in one shot. Levels of which some
    are there go on as they were begun.

    Args:
        configs: One per level.
        worker: Who runs them.
        out: Of the sweep.
        overwrite: Whatever is there does not count.

    Raises:
        InputFileError: If a level's report cannot be read.
    """
    last = configs[-1]
    in_one_shot = last.channels is not None and last.schedule == "one-shot"
    if worker.count > 1 or len(configs) == 1 or last.steps == 0 or in_one_shot:
        return False
    folders = [RunFolder(out / folder_name(config), {}) for config in configs]
    begun = [] if overwrite else [_arguments_in(folder) for folder in folders]
    return all(there is None or there.get("--warm-start") is not None for there in begun)


def _arguments_in(folder: RunFolder) -> dict[str, Any] | None:
    if folder.is_finished:
        return arguments_of(read_report(folder.path))
    return folder.unfinished_arguments()


def plan_levels(
    configs: Sequence[RecoverConfig],
    teacher: Teacher,
    dreams: DreamSet,
    eval_data: EvalData | None,
    out: Path,
    *,
    overwrite: bool = False,
) -> list[Level]:
    """Return the levels and what is there of them; nothing is written or computed.

    Args:
        configs: One per level.
        teacher: Of all of them.
        dreams: Of all of them.
        eval_data: Real images to judge by, None without.
        out: Of the sweep: the folder of the levels' folders.
        overwrite: Everything is to do, whatever is there.

    Raises:
        ConfigError: If a file is where a folder should be, or a level would replace what it reads,
            or what no run made.
        IncompatibleError: If a finished or interrupted level has other arguments.
        InputFileError: If a level's report cannot be read.
    """
    refuse_no_folder(out)
    levels: list[Level] = []
    for number, asked in enumerate(configs):
        path = out / folder_name(asked)
        config = asked if overwrite else _as_begun(asked, configs[:number], teacher, path)
        arguments = asked_arguments(config, teacher, dreams, eval_data)
        inputs = (teacher.spec.path, config.student_weights)
        folder = RunFolder(path, arguments, inputs)
        refuse_no_folder(path)
        folder.refuse_to_lose(overwrite=overwrite)
        level = Level(
            number=number,
            config=config,
            folder=path,
            state=WAITING if overwrite else _state(folder, arguments),
            arguments=arguments,
            inputs=inputs,
        )
        levels.append(level)
    return levels


def run_sweep(
    levels: Sequence[Level],
    teacher: Teacher,
    dreams: DreamSet,
    eval_data: EvalData | None,
    worker: Worker | None = None,
    progress: ProgressCallback = ignore_progress,
    *,
    overwrite: bool = False,
    promised: Callable[[], object] | None = None,
    remarks: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """Run the worker's levels that are not finished, one after another, and return those it ran.

    Workers share nothing; each level is one worker's alone, and levels that start from each other
    must all be one worker's. Called again after an interruption, the level that was interrupted
    goes on from its checkpoint.

    Args:
        levels: From :func:`plan_levels`.
        teacher: As for :func:`recover.pipeline.recover_student`, like the rest.
        dreams: Likewise.
        eval_data: Likewise.
        worker: Which share of the levels to make; all of them by default.
        progress: Told of each level under its folder's name.
        overwrite: Replace what is there. All levels begin before the first one runs, so that a
            later call without it goes on with all of them.
        promised: Called when they have; where it raises, none has. Without, what a budget chose for
            the levels that are replaced is forgotten then.
        remarks: For the report of every level, a sentence each.
        **options: ``allow_teacher_mismatch`` and ``command`` of recover_student.

    Raises:
        BegunInterrupt: For a KeyboardInterrupt, once all levels have begun.
    """
    worker = worker or Worker()
    mine = [level for level in levels if level.state != FINISHED and worker.makes(level.number)]
    for level in levels:
        if level.state == FINISHED:
            RunFolder(level.folder, {}).tidy()
    if overwrite:
        of_the_old = RunFolder(levels[0].folder.parent, {}).budget
        _promise(mine, promised or partial(of_the_old.unlink, missing_ok=True))
    with begun():
        for level in mine:
            below = [
                (other.config, RunFolder(other.folder, {}).student)
                for other in levels[: level.number]
            ]
            start = choose_start(level.config, below, teacher)
            if start.config != level.config and RunFolder(level.folder, {}).is_promised:
                level.promise(start.config)
            recover_student(
                start.config,
                teacher,
                dreams,
                eval_data,
                level.folder,
                _named(progress, level.folder.name),
                start=start.student,
                remarks=(*remarks, *start.remarks),
                **options,
            )
    return mine


def _promise(levels: Sequence[Level], promised: Callable[[], object]) -> None:
    """Begin all of the levels, or leave what is there as it is."""
    for level in levels:  # now: what an unfinished one has is gone when it begins anew
        if level.folder.is_dir():
            with alone_in(level.folder):
                continue
    with ExitStack() as undo:
        for level in levels:
            undo.callback(RunFolder(level.folder, {}).withdraw)
            level.promise()
        promised()
        undo.pop_all()


def finished_results(levels: Sequence[Level], *, overwrite: bool = False) -> list[Result]:
    """Return the levels that are finished by now, whoever ran them.

    With ``overwrite`` those of the old sweep, which other workers have not begun yet, are left out.

    Raises:
        IncompatibleError: If a level is of another sweep, which another process has run meanwhile.
    """
    results = []
    for level in (level for level in levels if RunFolder(level.folder, {}).is_finished):
        result = read_result(level.folder)
        changes = level.changes_since(result.report)
        if changes and not overwrite:
            raise _of_another_sweep(level.folder, changes)
        if not changes:
            results.append(result)
    return results


def _as_begun(
    config: RecoverConfig, below: Sequence[RecoverConfig], teacher: Teacher, path: Path
) -> RecoverConfig:
    """Return the level's config with the start that was chosen for it, where it has begun."""
    if not below or not is_choosy(config, below[-1], teacher):
        return config
    begun = (_arguments_in(RunFolder(path, {})) or {}).get("--warm-start")
    starts = [0.0, *(other.sparsity for other in below)]
    return dataclasses.replace(config, warm_start=begun) if begun in starts else config


def _state(folder: RunFolder, arguments: dict[str, Any]) -> str:
    if folder.is_finished:
        changes = changed_arguments(arguments_of(read_report(folder.path)), arguments)
        if changes:
            raise _of_another_sweep(folder.path, changes)
        return FINISHED
    folder.refuse_other_arguments()
    return INTERRUPTED if folder.checkpoint.exists() else WAITING


def _of_another_sweep(folder: Path, changes: Sequence[str]) -> IncompatibleError:
    return IncompatibleError(
        f"{folder}: is finished with {', '.join(changes[:3])}; "
        "choose another --out, or --overwrite the sweep"
    )


def _named(progress: ProgressCallback, level: str) -> ProgressCallback:
    def show(report: Progress) -> None:
        progress(dataclasses.replace(report, stage=f"{level} {report.stage}"))

    return show
