"""``recover`` from Python."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recover.config import RecoverConfig
from recover.export import load_student, student_at
from recover.finished import finished_report
from recover.folder import RunFolder
from recover.levels import asked_levels
from recover.pipeline import recover_student
from recover.presets import PRESETS
from recover.report import RecoveryReport
from recover.settings import base_settings, default_suffix, remark_on_student, student_suffix
from recover.sources import find_teacher
from recover.sweep import finished_results, plan_levels, starts_warm
from recover.sweep import run_sweep as run_levels
from recover.warm_start import warm_starts
from shared.answers import plain_answers
from shared.api import (
    TeacherSource,
    as_path,
    call_text,
    of_kind,
    opened_teacher,
    require_preset,
    shown,
    split_options,
    switches,
    teacher_facts,
    usual_state,
    warn,
)
from shared.architectures import is_factory
from shared.at_hand import student_of
from shared.cli_options import build_config
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.evaldata import EvalData, eval_data_of, open_eval_data
from shared.progress import ProgressCallback
from shared.spec import TeacherSpec
from shared.teacher import Teacher
from shared.workers import Worker

RealImages = Path | str | EvalData | tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """A student, and how good it is.

    Attributes:
        network: The student, on the CPU in evaluation mode. Of a teacher that was passed as a
            network it is a copy of that, with the student's weights; it takes what the teacher
            takes, and answers as it does.
        report: What ``report.json`` holds.
        out: Folder with ``student.safetensors``, ``report.json`` and ``metrics.jsonl``.
    """

    network: nn.Module
    report: RecoveryReport
    out: Path


def run(
    dreams: DreamSet | Path | str,
    *,
    teacher: TeacherSource | None = None,
    out: Path | str | None = None,
    eval_data: RealImages | None = None,
    preset: str = "default",
    overwrite: bool = False,
    allow_teacher_mismatch: bool = False,
    progress: bool | ProgressCallback = True,
    **options: Any,
) -> Recovered:
    """Prune a copy of ``teacher``, and recover it on ``dreams``.

    Called again after an interruption, it goes on where it stopped; a finished run is read.

    Args:
        dreams: A dream set, or the path of its index.
        teacher: What the dreams were made from: the network, or the path of a checkpoint. By
            default the one that the set holds, or the file that it names.
        out: Folder of the results. By default ``<dreams>-s<sparsity>``, here.
        eval_data: Real images to judge by, which decide nothing: a folder per class,
            ``cifar10:ROOT``, a table of findings, or ``(images, labels)``: uint8 ``(N, C, H, W)``
            in the teacher's size, and int64 ``(N,)``, or int8 ``(N, C)`` of findings.
        preset: Settings of a paper; the options win.
        overwrite: Replace what is in ``out``.
        allow_teacher_mismatch: Accept dreams of a teacher of other weights.
        progress: Whether to show it on stderr; or a function that is told.
        **options: Every setting of ``recover run``, a ``_`` for each ``-`` of its flag:
            ``sparsity``, ``channels``, ``steps``, ``device``... And those that describe the
            teacher, as for :func:`dreamforge.synth`, where the set does not say.

    Warns:
        AssumptionWarning: Of what the report warns of, too.

    Raises:
        TypeError: If there is no such option.
        DreamforgeError: As the command does; the classes are those of :mod:`shared.errors`.
    """
    overwrite, allow_teacher_mismatch = switches(
        progress, overwrite=overwrite, allow_teacher_mismatch=allow_teacher_mismatch
    )
    opened = _opened(dreams)
    settings, facts = split_options("run", RecoverConfig, options)
    config = _config(preset, settings)
    warn(filter(None, [remark_on_student(preset, settings)]))
    path = (
        as_path("out", out)
        if out is not None
        else Path(f"{opened.path.stem}{default_suffix(config)}")
    )
    named = {"dreams": opened.path, "teacher": teacher, "out": path, "eval_data": eval_data}
    call = call_text("recover.run", named | {"preset": preset} | options)
    is_again = RunFolder(path, {}).is_finished and not overwrite
    with _found_teacher(opened, teacher, facts) as loaded, shown(progress) as callback:
        _refuse_its_name(config, teacher, loaded)
        real = _real_images(eval_data, loaded.spec)
        if is_again:
            report = finished_report(config, loaded, opened, real, path)
        else:
            report = recover_student(
                config,
                loaded,
                opened,
                real,
                path,
                callback,
                overwrite=overwrite,
                allow_teacher_mismatch=allow_teacher_mismatch,
                command=call,
            )
        recovered = _recovered(report, path, config, teacher, loaded)
    warn(report.warnings)
    return recovered


def run_sweep(
    dreams: DreamSet | Path | str,
    *,
    sparsity: Sequence[float] | None = None,
    channels: Sequence[float] | None = None,
    teacher: TeacherSource | None = None,
    out: Path | str | None = None,
    eval_data: RealImages | None = None,
    preset: str = "default",
    warm_start: bool | None = None,
    overwrite: bool = False,
    allow_teacher_mismatch: bool = False,
    progress: bool | ProgressCallback = True,
    **options: Any,
) -> list[Recovered]:
    """Do :func:`run` at several levels, each from the student of the level below.

    Called again, it runs what is not finished.

    Args:
        dreams: As for :func:`run`, like the others that are not named here.
        sparsity: Levels: fractions of the prunable weights that become zero.
        channels: Levels of another kind: fractions of every layer's channels that are kept.
        teacher: As for :func:`run`.
        out: Folder of the levels' folders. By default ``<dreams>-sweep``, here.
        eval_data: As for :func:`run`.
        preset: As for :func:`run`.
        warm_start: Whether levels start from each other. By default they do, where they can and
            those that are there did.
        overwrite: Replace the levels that are there.
        allow_teacher_mismatch: As for :func:`run`.
        progress: As for :func:`run`.
        **options: As for :func:`run`.

    Returns:
        One for each level, the least pruned first.

    Raises:
        TypeError: If there is no such option.
        DreamforgeError: As the command does.
    """
    overwrite, allow_teacher_mismatch = switches(
        progress, overwrite=overwrite, allow_teacher_mismatch=allow_teacher_mismatch
    )
    of_kind("warm_start", warm_start, usual=True)
    opened = _opened(dreams)
    settings, facts = split_options("run_sweep", RecoverConfig, options)
    levels = asked_levels(_listed("sparsity", sparsity), _listed("channels", channels))
    base = _config(preset, settings | levels[-1])
    warn(filter(None, [remark_on_student(preset, settings | levels[-1])]))
    configs = [dataclasses.replace(base, **level) for level in levels]
    folder = (
        as_path("out", out)
        if out is not None
        else Path(f"{opened.path.stem}{student_suffix(base)}-sweep")
    )
    named: dict[str, Any] = {"dreams": opened.path, "sparsity": sparsity, "channels": channels}
    named |= {"teacher": teacher, "out": folder, "eval_data": eval_data, "preset": preset}
    call = call_text("recover.run_sweep", named | {"warm_start": warm_start} | options)
    with _found_teacher(opened, teacher, facts) as loaded, shown(progress) as callback:
        _refuse_its_name(base, teacher, loaded)
        real = _real_images(eval_data, loaded.spec)
        if warm_start is None:
            warm_start = starts_warm(configs, Worker(), folder, overwrite=overwrite)
        if warm_start:
            configs = list(warm_starts(configs))
        plan = plan_levels(configs, loaded, opened, real, folder, overwrite=overwrite)
        run_levels(
            plan,
            loaded,
            opened,
            real,
            progress=callback,
            overwrite=overwrite,
            allow_teacher_mismatch=allow_teacher_mismatch,
            command=call,
        )
        found = [
            _recovered(result.report, level.folder, level.config, teacher, loaded)
            for result, level in zip(finished_results(plan), plan, strict=True)
        ]
    warn(dict.fromkeys(text for each in found for text in each.report.warnings))
    return found


def _opened(dreams: DreamSet | Path | str) -> DreamSet:
    return dreams if isinstance(dreams, DreamSet) else DreamSet.open(as_path("dreams", dreams))


def _config(preset: str, settings: dict[str, Any]) -> RecoverConfig:
    require_preset(preset, PRESETS)
    config: RecoverConfig = build_config(RecoverConfig, settings, base_settings(preset, settings))
    return config


def _listed(name: str, levels: Sequence[float] | None) -> str | None:
    if levels is None:
        return None
    try:
        return ",".join(repr(float(level)) for level in levels)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: found {levels!r}, expected a list of numbers") from error


@contextmanager
def _found_teacher(
    dreams: DreamSet, source: TeacherSource | None, facts: dict[str, Any]
) -> Iterator[Teacher]:
    if source is not None:
        with opened_teacher(source, facts, dreams.manifest.teacher) as teacher:
            yield teacher
        return
    with usual_state():
        yield find_teacher(dreams, None, **teacher_facts(facts))


def _refuse_its_name(config: RecoverConfig, source: TeacherSource | None, teacher: Teacher) -> None:
    """Raise ConfigError where a student is to be built by the name of the network at hand."""
    name = teacher.spec.architecture
    if isinstance(source, nn.Module) and config.student == name and is_factory(name):
        raise ConfigError(
            f"student: {name!r} is the network at hand, with its size; name a function that builds "
            "another one"
        )


def _real_images(source: RealImages | None, spec: TeacherSpec) -> EvalData | None:
    if source is None or isinstance(source, EvalData):
        return source
    if isinstance(source, (str, Path)):
        return open_eval_data(str(source), spec)
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        raise ConfigError(
            f"eval_data: found a {type(source).__name__}, expected the path of a folder, or "
            "(images, labels)"
        )
    return eval_data_of(source[0], source[1], spec)


def _recovered(
    report: RecoveryReport,
    out: Path,
    config: RecoverConfig,
    source: TeacherSource | None,
    teacher: Teacher,
) -> Recovered:
    """Return the student that was saved: as what the caller holds, where it is a copy of that."""
    architecture = config.student or teacher.spec.architecture
    network = load_student(student_at(out), architecture).classifier.network
    plain_answers(network)
    if isinstance(source, nn.Module) and config.student is None:
        network = student_of(source, network.state_dict())
    return Recovered(network=network, report=report, out=out)
