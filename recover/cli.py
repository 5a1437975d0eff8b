"""The command line: ``recover run`` and ``recover eval``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recover.cli_budget import BUDGET, Budget
from recover.cli_compare import compare
from recover.cli_export import export
from recover.cli_options import (
    AS_JSON,
    DREAMS,
    EVAL_DATA,
    TEACHER,
    area,
    open_real_images,
    open_teacher,
    percent,
    recovery_config,
    recovery_options,
    show_files,
    warn,
)
from recover.cli_prune import prune
from recover.cli_sweep import SWEEP_COMMANDS
from recover.settings import default_suffix
from shared.cli import Tool, command_line, emit, format_duration, say, show_table
from shared.cli_options import FILE, refuse_unused, teacher_arguments, teacher_options
from shared.cli_progress import progress_display

if TYPE_CHECKING:
    from recover.plan import RecoveryPlan
    from recover.report import RecoveryReport

CONTEXT = {"auto_envvar_prefix": "RECOVER", "help_option_names": ["-h", "--help"]}


@click.group(cls=Tool, context_settings=CONTEXT, resumed=("run", "sweep", "prune"))
@click.version_option(package_name="dreamforge-recover", prog_name="recover")
def main() -> None:
    """Prune a copy of a classifier and bring it back on a dream set: no training data needed.

    Exit codes: 0 fine; 1 failed; 2 usage; 3 bad input file; 4 inputs that do not belong together;
    130 interrupted, the same command goes on.
    """


@main.command()
@DREAMS
@click.option(
    "--out",
    type=FILE,
    help="folder of the results  [default: <dreams>-s<sparsity>, here; <dreams>-<student>...]",
)
@recovery_options()
@BUDGET
@click.option("--overwrite", is_flag=True, help="replace the run in --out, once this is finished")
@click.option("--dry-run", is_flag=True, help="time a few steps, print the plan, write nothing")
@AS_JSON
def run(
    dreams_path: Path,
    out: Path | None,
    eval_data: str | None,
    preset: str,
    allow_teacher_mismatch: bool,  # noqa: FBT001
    budget: str | None,
    overwrite: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **arguments: Any,
) -> None:
    """Prune a copy of the teacher, and recover it on a dream set.

    It recovers by distillation from the teacher. The same command again goes on where it was
    interrupted. Under torchrun, all processes teach one student: each takes its part of every
    batch. A step is that of one process but for rounding, which training amplifies: the student is
    as good, and has other bits.

    \b
    Examples:
      recover run --dreams dreams.h5 --sparsity 0.8
      recover run --teacher resnet50.pt --dreams dreams.h5 --sparsity 0.9 --out student
      recover run --dreams dreams.h5 --sparsity 0.9 --eval-data cifar10:data --json
      recover run --dreams dreams.h5 --sparsity 0.9 --budget 10m
      recover run --dreams dreams.h5 --student cifar_resnet18 --out transfer
      torchrun --nproc-per-node 4 -m recover run --dreams dreams.h5 --out student
    """
    time_given = Budget(budget, arguments["steps"])
    config = recovery_config(preset, arguments, ("steps",) if budget else ())
    out = out or Path(f"{dreams_path.stem}{default_suffix(config)}")

    from recover.finished import finished_report
    from recover.folder import RunFolder
    from recover.parallel import follow, launched_group
    from recover.pipeline import recover_student
    from recover.plan import plan_recovery
    from recover.preparation import prepare
    from shared.dreamset import DreamSet

    with launched_group(config) as (group, config):
        folder, replaces = RunFolder(out, {}), overwrite or dry_run
        is_again = folder.is_finished and not replaces
        folder.refuse_finished(overwrite=replaces or is_again)
        dreams = DreamSet.open(dreams_path)
        teacher = open_teacher(dreams, arguments)
        shared: dict[str, Any] = {"allow_teacher_mismatch": allow_teacher_mismatch, "group": group}
        looks = group.leads and (budget is not None or not dry_run)
        real = open_real_images(eval_data, teacher.spec) if looks else None
        if budget is not None:
            config = time_given.fit(
                prepare(config, teacher, dreams, **shared),
                out,
                real,
                overwrite=overwrite,
                write=not dry_run,
            )
            overwrite = False  # of an earlier run nothing is left but the steps just chosen
        if dry_run:
            plan = plan_recovery(prepare(config, teacher, dreams, **shared))
        elif is_again:
            if group.leads:
                report = finished_report(config, teacher, dreams, real, out)
                say(f"recover: {out}: already finished")
        elif group.leads:
            with progress_display() as progress:
                report = recover_student(
                    config,
                    teacher,
                    dreams,
                    real,
                    out,
                    progress,
                    overwrite=overwrite,
                    command=command_line(),
                    remarks=time_given.warnings,
                    **shared,
                )
        else:
            follow(config, teacher, dreams, **shared)
    if not group.leads:
        return
    if dry_run:
        warn(plan.warnings)
        record = {**plan.to_json(), "out": str(out)}
        emit(record, as_json=as_json, render=lambda: _show_plan(plan, out))
        return
    warn(report.warnings)
    emit(report.to_json(), as_json=as_json, render=lambda: _show_report(report))


@main.command(name="eval")
@click.argument("student_path", metavar="STUDENT", type=FILE)
@EVAL_DATA
@click.option("--dreams", "dreams_path", type=FILE, help="dream set to measure agreement on")
@TEACHER
@teacher_options
@click.option(
    "--student",
    metavar="ARCH",
    help="the student's architecture, where its file names code: package.module:factory",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N")
@AS_JSON
def evaluate(
    student_path: Path,
    eval_data: str | None,
    dreams_path: Path | None,
    student: str | None,
    device: str,
    as_json: bool,  # noqa: FBT001
    **arguments: Any,
) -> None:
    """Judge a saved STUDENT.

    STUDENT is student.safetensors, or the folder of a run. Without a teacher, agreement is with the
    answers that the dream set holds; none is measured on real images, and no score.

    \b
    Examples:
      recover eval dreams-s0.8 --eval-data cifar10:data --teacher resnet20.pt
      recover eval student.safetensors --dreams dreams.h5 --json
    """
    if eval_data is None and dreams_path is None:
        raise click.UsageError("nothing to judge by: pass --eval-data, --dreams or both")
    options = teacher_arguments(arguments)
    if arguments["teacher_path"] is None and dreams_path is None:
        reason = "found neither --teacher nor --dreams, expected a teacher to describe"
        refuse_unused(options, reason, used=("class_names",))

    from recover.examine import examine_student
    from recover.export import load_student, student_at, teacher_beside
    from recover.sources import find_answering_teacher
    from shared.dreamset import DreamSet
    from shared.teacher import load_teacher

    path = student_at(student_path)
    saved = load_student(path, student)
    dreams = DreamSet.open(dreams_path) if dreams_path else None
    teacher_path = arguments["teacher_path"]
    teacher, remarks = None, tuple[str, ...]()
    if teacher_path is not None:
        teacher = load_teacher(teacher_path, spec=teacher_beside(saved), **options)
    elif dreams is not None:
        teacher, remarks = find_answering_teacher(dreams, **options)
    names = options["class_names"] or saved.classifier.spec.class_names
    spec = saved.classifier.spec.with_class_names(names)
    real = open_real_images(eval_data, spec)
    with progress_display() as progress:
        verdict = examine_student(saved, teacher, dreams, real, device, progress)
    verdict = dataclasses.replace(verdict, warnings=(*remarks, *verdict.warnings))
    record = {"student": str(path), **verdict.to_json()}
    warn(verdict.warnings)
    emit(record, as_json=as_json, render=lambda: _show_verdict(str(path), record))


def _show_report(report: "RecoveryReport") -> None:
    with_accuracy = report.teacher.accuracy is not None
    with_area = report.teacher.auroc is not None
    rows = [
        [
            name,
            *([percent(stage.accuracy)] if with_accuracy else []),
            *([area(stage.auroc)] if with_area else []),
            percent(stage.agreement),
            percent(stage.score),
            f"{stage.num_nonzero:,}",
        ]
        for name, stage in report.shown_stages.items()
    ]
    accuracy = ["accuracy on real images"] if with_accuracy else []
    accuracy += ["AUROC"] if with_area else []
    origin = report.provenance
    num_held_out = (origin.get("dreams") or {}).get("num_held_out", 0)
    on = f"{num_held_out:,} held-out dreams"
    if with_accuracy:
        on = f"{origin['num_eval_images']:,} real images"
    title = f"{100 * report.sparsity:.4g} % of {report.num_weights:,} weights pruned"
    if report.config.get("channels") is not None:
        title = f"{report.num_weights:,} of {report.teacher.num_nonzero:,} weights"
    show_table(
        title if report.student is None else f"{report.student}: {title}",
        ["", *accuracy, f"agreement with the teacher on {on}", "score", "non-zero weights"],
        rows,
    )
    if report.student is not None and report.costs is not None:
        from recover.tables import beside_teacher

        click.echo(beside_teacher(report.costs))
    show_files(report)


def _show_plan(plan: "RecoveryPlan", out: Path) -> None:
    shape = "x".join(map(str, plan.image_shape))
    channels, others = plan.config["channels"], plan.num_unlabeled_per_batch
    rows = [
        ("network", f"{plan.architecture}, {plan.num_classes} classes, {shape}"),
        *([("student", plan.student)] if plan.config["student"] else []),
        *([("channels kept", percent(channels))] if channels is not None else []),
        ("weights kept", f"{plan.num_kept:,} of {plan.num_weights:,}"),
        ("dreams", f"{plan.num_train:,} to train on, {plan.num_held_out:,} held out"),
        *([("real images", f"{plan.num_unlabeled:,}, {others} of a batch")] if others else []),
        ("steps", f"{plan.steps:,} of {plan.config['batch_size']} images"),
        (
            "time",
            f"{format_duration(plan.seconds)} ({plan.seconds_per_step:.3g} s a step) + judging",
        ),
        ("memory", f"{plan.peak_num_bytes / 2**30:.2f} GiB"),
        ("device", plan.device),
        ("out", str(out)),
    ]
    show_table("plan", ["", "value"], rows)


def _show_verdict(path: str, record: dict[str, Any]) -> None:
    real, dreams = (f"{record[name]:,}" for name in ("num_real", "num_dreams"))
    on_real = [
        (f"accuracy on {real} real images", percent(record["accuracy"])),
        *([("AUROC on the same", area(record["auroc"]))] if record["auroc"] is not None else []),
        (f"agreement with the teacher on {real} real images", percent(record["agreement"])),
    ]
    on_dreams = [
        (f"agreement with the teacher on {dreams} dreams", percent(record["agreement_on_dreams"])),
        ("score on varied dreams", percent(record["score"])),
    ]
    show_table(
        path,
        ["", "value"],
        [
            *(on_real if record["num_real"] else []),
            *(on_dreams if record["num_dreams"] else []),
            ("sparsity", percent(record["sparsity"])),
            ("non-zero weights", f"{record['num_nonzero']:,} of {record['num_weights']:,}"),
        ],
    )


for _command in (prune, *SWEEP_COMMANDS, compare, export):
    main.add_command(_command)
