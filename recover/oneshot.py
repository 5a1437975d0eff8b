"""A student that is pruned in one shot and repaired, but not taught."""

import dataclasses
import time
from pathlib import Path

from recover.beginning import pruned_copy
from recover.config import RecoverConfig
from recover.costs import measure_costs
from recover.evaluate import Judge
from recover.export import facts_of_teacher, save_student
from recover.folder import RunFolder
from recover.pipeline import empty_layer_warnings, recover_student
from recover.preparation import named_arguments, resolved
from recover.report import RecoveryReport
from shared.begun import begun
from shared.device import describe_device
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.files import write_json
from shared.progress import ProgressCallback, ignore_progress
from shared.provenance import provenance
from shared.teacher import Teacher


def prune_student(
    config: RecoverConfig,
    teacher: Teacher,
    dreams: DreamSet | None,
    out: Path,
    progress: ProgressCallback = ignore_progress,
    *,
    overwrite: bool = False,
    allow_teacher_mismatch: bool = False,
    command: str = "",
) -> RecoveryReport:
    """Prune a copy of ``teacher`` in one shot, repair it where there are dreams, and save it.

    With dreams this is a recovery run of no steps. Without, nothing is repaired or measured, and
    the report's figures of quality are None.

    Args:
        config: Its schedule and steps do not count.
        teacher: Unchanged, but for moving to the config's device where there are dreams.
        dreams: Made from this teacher, or None.
        out: Folder for ``student.safetensors`` and ``report.json``.
        progress: Told of judging.
        overwrite: Replace an earlier run in ``out``.
        allow_teacher_mismatch: Accept dreams of another teacher with the same images and classes.
        command: For the report's provenance.

    Raises:
        ConfigError, IncompatibleError: As :func:`recover.pipeline.recover_student`.
    """
    config = pruning_config(config, dreams)
    if dreams is None:
        return _prune_without_dreams(config, teacher, out, overwrite=overwrite, command=command)
    return recover_student(
        config,
        teacher,
        dreams,
        None,
        out,
        progress,
        overwrite=overwrite,
        allow_teacher_mismatch=allow_teacher_mismatch,
        command=command,
    )


def in_one_shot(config: RecoverConfig) -> RecoverConfig:
    """Return the config of a run without steps.

    Raises:
        ConfigError: If something in it needs steps.
    """
    return dataclasses.replace(config, schedule="one-shot", steps=0)


def pruning_config(config: RecoverConfig, dreams: DreamSet | None) -> RecoverConfig:
    """Return what a student is pruned with: no steps, and without dreams no repair.

    Raises:
        ConfigError: If something in it needs steps, or dreams where there are none.
    """
    if dreams is None and config.reconstruct != "none":
        raise ConfigError(
            f"--reconstruct {config.reconstruct}: found no --dreams, expected a dream set to fit "
            "the weights to"
        )
    config = in_one_shot(config)
    return dataclasses.replace(config, repair_images=0) if dreams is None else config


def _prune_without_dreams(
    config: RecoverConfig, teacher: Teacher, out: Path, *, overwrite: bool, command: str
) -> RecoveryReport:
    started = time.monotonic()
    config = resolved(config, teacher)
    network, masks = pruned_copy(teacher, config)
    folder = RunFolder(
        out,
        named_arguments(config.identity(), teacher.spec.fingerprint, None, None),
        [teacher.spec.path],
    )
    with folder.begin(overwrite=overwrite), begun():
        judge = Judge(spec=teacher.spec, dreams=None, real=None)
        pruned = judge.judge(network, "pruned network")
        facts = {
            "sparsity": config.sparsity,
            **facts_of_teacher(teacher.spec),
            "dreams_digest": None,
            "config": config.identity(),
        }
        save_student(folder.student, network, masks, teacher.spec, facts)
        report = RecoveryReport(
            sparsity=config.sparsity,
            teacher=judge.judge(teacher.network, "teacher"),
            pruned=pruned,
            repaired=pruned,
            recovered=pruned,
            seconds=time.monotonic() - started,
            out=str(out),
            num_weights=masks.num_weights,
            num_kept=masks.num_kept,
            layers=tuple(masks.layers()),
            config=config.to_json(),
            provenance={
                **provenance(device=describe_device(teacher.device), command=command),
                "teacher": teacher.spec.to_json(),
                "dreams": None,
                "num_eval_images": None,
            },
            warnings=(*teacher.spec.assumptions, *empty_layer_warnings(masks)),
            costs=measure_costs(network, teacher.network, teacher.spec.image_shape),
        )
        write_json(folder.report, report.to_json())
        folder.finish()
    return report
