"""From a teacher and its dreams to a student and a report."""

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from recover.beginning import (
    begin_again,
    pruned_copy,
    slimming_at_start,
    start_of_distillation,
)
from recover.config import RecoverConfig
from recover.costs import measure_costs
from recover.course import distill, lowered_rate_warnings
from recover.distill import Distillation
from recover.evaluate import Judge, exam_beside, exam_on_variants
from recover.export import facts_of_teacher, save_student
from recover.folder import RunFolder
from recover.holdout import images_of
from recover.journal import Journal
from recover.masks import Masks, dense_masks
from recover.mending import mend, mending_warnings, repair
from recover.preparation import Setup, inputs_of, prepare, run_arguments
from recover.remarks import no_better_than_chance, worse_than_before
from recover.report import RecoveryReport, StageRecord
from recover.state import damaged
from recover.unlabeled import record_of, seen_before
from recover.warm_start import with_start
from shared.begun import begun
from shared.device import describe_device
from shared.distributed import ALONE, Group
from shared.dreamset import DreamSet
from shared.evaldata import EvalData
from shared.files import write_json
from shared.progress import ProgressCallback, ignore_progress
from shared.provenance import provenance
from shared.spec import SIGMOID
from shared.teacher import Teacher


def recover_student(
    config: RecoverConfig,
    teacher: Teacher,
    dreams: DreamSet,
    eval_data: EvalData | None,
    out: Path,
    progress: ProgressCallback = ignore_progress,
    *,
    overwrite: bool = False,
    allow_teacher_mismatch: bool = False,
    command: str = "",
    group: Group = ALONE,
    start: Path | None = None,
    remarks: Sequence[str] = (),
) -> RecoveryReport:
    """Prune a copy of ``teacher``, distil the teacher into it on ``dreams``, judge and save it.

    Called again with the same arguments after an interruption, it goes on from the last
    checkpoint and ends with the same student.

    Args:
        config: Every choice.
        teacher: Unchanged, but for moving to the config's device.
        dreams: Made from this teacher.
        eval_data: Real images, for accuracy only: nothing is trained or chosen on them.
        out: Folder for ``student.safetensors``, ``report.json`` and ``metrics.jsonl``.
        progress: Told of judging and distilling.
        overwrite: Replace an earlier run in ``out``.
        allow_teacher_mismatch: Accept dreams of another teacher with the same images and classes.
        command: For the report's provenance.
        group: Processes that teach together; this is the first of them, and the others call
            :func:`recover.parallel.follow`.
        start: File of the student that this one starts as a copy of, with ``config.warm_start``.
        remarks: For the report, a sentence each.

    Raises:
        ConfigError: If ``out`` holds a finished run and ``overwrite`` is not set, or holds what
            the run reads.
        DreamforgeError: If another process is at work on ``out``.
        CheckpointError: If the state of an unfinished run in ``out`` is damaged.
        IncompatibleError: If teacher, dreams and an unfinished run in ``out`` do not belong
            together.
        DivergedError: If the loss is not finite at a thousandth of the rate either.
        KeyboardInterrupt: After SIGINT or SIGTERM, with a checkpoint written if distilling; a
            BegunInterrupt once the run has begun in ``out``.
    """
    started = time.monotonic()
    setup = prepare(
        config, teacher, dreams, allow_teacher_mismatch=allow_teacher_mismatch, group=group
    )
    if start is not None:
        setup = with_start(setup, start)
    folder = RunFolder(out, run_arguments(setup, eval_data), inputs_of(setup))
    with folder.begin(overwrite=overwrite) as state, begun():
        return _recover(
            setup, eval_data, folder, state, progress, command=command, remarks=remarks, at=started
        )


def _recover(
    setup: Setup,
    eval_data: EvalData | None,
    folder: RunFolder,
    state: Mapping[str, Any] | None,
    progress: ProgressCallback,
    *,
    command: str,
    remarks: Sequence[str],
    at: float,
) -> RecoveryReport:
    """Do the run; it began ``at`` that time of the monotonic clock, or goes on from ``state``."""
    config = setup.config
    judge = _judge(setup, eval_data, progress)

    if state is None:
        stages, student, masks = _prune_and_repair(setup, judge)
        run = new_distillation(setup, student, masks)
        seconds_before = 0.0
    else:
        stages = state["stages"]
        run = _resumed(setup, state, folder)
        seconds_before = float(state["seconds"])

    def seconds() -> float:
        return seconds_before + time.monotonic() - at

    def save(run: Distillation) -> None:
        folder.save({**run.state(), "seconds": seconds()}, stages)

    def again(config: RecoverConfig) -> Distillation:
        begun = dataclasses.replace(setup, config=config)
        return new_distillation(begun, *begin_again(begun))

    journal = Journal(folder.metrics)
    journal.rewind(run.step)
    run = distill(run, again=again, journal=journal, save=save, progress=progress)
    run.check()
    student, masks = run.taught.eval(), run.masks
    if config.final_repair:
        student = _repaired_if_no_worse(setup, student, judge)
    stages["recovered"], classes = judge.judge_by_class(student, "recovered student")

    save_student(folder.student, student, masks, setup.origin.spec, _facts(setup, run))
    report = RecoveryReport(
        sparsity=config.sparsity,
        **stages,
        seconds=seconds(),
        out=str(folder.path),
        num_weights=masks.num_weights,
        num_kept=masks.num_kept,
        layers=tuple(masks.layers()),
        config=config.to_json(),
        provenance=_provenance(setup, eval_data, command),
        warnings=(
            *remarks,
            *setup.warnings,
            *(eval_data.remarks if eval_data else ()),
            *seen_before(setup.unlabeled, eval_data),
            *mending_warnings(setup),
            *lowered_rate_warnings(config, run),
            *empty_layer_warnings(masks),
            *worse_than_before(stages, len(setup.split.held_out)),
            *_nothing_learnt(setup, stages, masks),
        ),
        classes=classes,
        costs=measure_costs(student, setup.teacher.network, setup.teacher.spec.image_shape),
    )
    write_json(folder.report, report.to_json())
    folder.finish()
    return report


def _nothing_learnt(setup: Setup, stages: Mapping[str, StageRecord], masks: Masks) -> list[str]:
    spec = setup.origin.spec
    if spec.answers == SIGMOID or not setup.config.steps:
        return []
    layers, allocation = tuple(masks.layers()), setup.config.allocation
    return no_better_than_chance(stages, spec.num_classes, layers, allocation)


def _judge(setup: Setup, eval_data: EvalData | None, progress: ProgressCallback) -> Judge:
    teacher, held_out = setup.teacher, images_of(setup.dreams, setup.split.held_out)
    real = None
    if eval_data is not None:
        real = exam_beside(teacher, eval_data.images, eval_data.labels, progress)
    return Judge(
        spec=teacher.spec,
        dreams=exam_beside(teacher, held_out, None, progress),
        real=real,
        progress=progress,
        varied=exam_on_variants(teacher, held_out, progress),
    )


def _prune_and_repair(
    setup: Setup, judge: Judge
) -> tuple[dict[str, StageRecord], nn.Module, Masks]:
    config, origin = setup.config, setup.origin
    stages = {"teacher": judge.judge(setup.teacher.network, "teacher")}
    network, masks = pruned_copy(origin, config, slimming_at_start(setup))
    stages["pruned"] = stages["repaired"] = judge.judge(network, "pruned network")
    if mend(setup, network, masks, judge.progress):
        stages["repaired"] = judge.judge(network, "repaired network")
    return stages, *start_of_distillation(config, origin, network, masks)


def _repaired_if_no_worse(setup: Setup, student: nn.Module, judge: Judge) -> nn.Module:
    repaired = copy.deepcopy(student)
    repair(setup, repaired)
    before = judge.agreement_on_dreams(student, "student")
    after = judge.agreement_on_dreams(repaired, "repaired student")
    return repaired if (after or 0.0) >= (before or 0.0) else student


def new_distillation(setup: Setup, student: nn.Module, masks: Masks) -> Distillation:
    """Return a distillation of ``student`` as the setup says, at its first step."""
    return Distillation(
        student=student,
        teacher=setup.teacher,
        feed=setup.feed,
        config=setup.config,
        device=setup.device,
        masks=masks,
        group=setup.group,
        channels_left=setup.channels_left,
    )


def _resumed(setup: Setup, state: Mapping[str, Any], folder: RunFolder) -> Distillation:
    student = copy.deepcopy(setup.origin.network)
    run = new_distillation(setup, student, dense_masks(student))
    try:
        run.restore(state)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise damaged(folder.checkpoint, f"{type(error).__name__}: {error}") from error
    return run


def _facts(setup: Setup, run: Distillation) -> dict[str, Any]:
    channels = setup.config.channels
    left = None if channels is None else {"channels": channels, "channels_left": run.channels_left}
    return {
        "sparsity": setup.config.sparsity,
        **(left or {}),
        **facts_of_teacher(setup.teacher.spec),
        "dreams_digest": setup.dreams.manifest.digest(),
        **({} if setup.unlabeled is None else {"num_unlabeled": len(setup.unlabeled.images)}),
        "config": setup.config.identity(),
    }


def _provenance(setup: Setup, eval_data: EvalData | None, command: str) -> dict[str, Any]:
    return {
        **provenance(device=describe_device(setup.device), command=command),
        "teacher": setup.teacher.spec.to_json(),
        "student": setup.origin.spec.to_json() if setup.config.student else None,
        "dreams": {
            "path": str(setup.dreams.path),
            "digest": setup.dreams.manifest.digest(),
            "synthetic": setup.dreams.manifest.synthetic is not False,
            "num_images": setup.dreams.num_images,
            "num_train": len(setup.split.train),
            "num_held_out": len(setup.split.held_out),
        },
        "unlabeled": record_of(setup.unlabeled, setup.config, setup.num_unlabeled_per_batch),
        "num_eval_images": None if eval_data is None else len(eval_data.images),
        "eval_data_digest": None if eval_data is None else eval_data.digest,
        "num_processes": setup.group.count,
    }


def empty_layer_warnings(masks: Masks) -> list[str]:
    """Return a sentence that names the layers of which nothing is kept, if there are any."""
    names = masks.empty_layers()
    if not names:
        return []
    return [f"nothing is left of {', '.join(names)}: the sparsity is too high for this network"]
