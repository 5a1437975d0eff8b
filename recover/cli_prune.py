"""``recover prune``: what pruning does to every layer, before a run is paid for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recover.cli_options import (
    AS_JSON,
    MISMATCH,
    TEACHER,
    open_teacher,
    percent,
    show_files,
    warn,
)
from recover.config import RecoverConfig
from recover.settings import PRUNING_OPTIONS, base_settings
from shared.cli import command_line, emit, say, show_table
from shared.cli_options import (
    FILE,
    build_config,
    config_options,
    teacher_arguments,
    teacher_options,
)
from shared.cli_progress import progress_display
from shared.config import options_of

if TYPE_CHECKING:
    from recover.prune import PruningPlan
    from recover.report import RecoveryReport
    from shared.dreamset import DreamSet
    from shared.teacher import Teacher

OTHER_OPTIONS = tuple(
    field.name for field, _ in options_of(RecoverConfig) if field.name not in PRUNING_OPTIONS
)


@click.command()
@TEACHER
@teacher_options
@click.option("--dreams", "dreams_path", type=FILE, help="dream set to measure and repair on")
@MISMATCH
@config_options(RecoverConfig, OTHER_OPTIONS)
@click.option(
    "--sensitivity-images",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    help="dreams that every layer is measured on; 0: none",
)
@click.option("--out", type=FILE, help="folder for the pruned student  [default: write nothing]")
@click.option("--overwrite", is_flag=True, help="replace the run in --out, once this is finished")
@click.option("--dry-run", is_flag=True, help="show the table, write nothing even with --out")
@AS_JSON
def prune(
    dreams_path: Path | None,
    allow_teacher_mismatch: bool,  # noqa: FBT001
    sensitivity_images: int,
    out: Path | None,
    overwrite: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **arguments: Any,
) -> None:
    """Show what pruning does to every layer.

    With --out, prune in one shot and save the student. Energy lost is the part of a layer's squared
    weights that is pruned. With --dreams each layer's sensitivity is measured, too: the network's
    agreement with the teacher when that layer alone is pruned to --sparsity, with no repair; the
    last line is the network with all layers pruned. A student saved with --dreams is reconstructed
    and repaired on them, as --reconstruct and --repair say.

    With --channels it is the channels that a layer makes, together with those of other layers that
    are added to them, that are removed alone; what the smaller network costs is measured, too.

    \b
    Examples:
      recover prune --teacher resnet20.pt --sparsity 0.9
      recover prune --dreams dreams.h5 --sparsity 0.9 --allocation lamp --json
      recover prune --dreams dreams.h5 --sparsity 0.9 --keep 'fc.*,*.downsample.*' --out pruned
      recover prune --teacher resnet20.pt --channels 0.5
    """
    config: RecoverConfig = build_config(
        RecoverConfig, arguments, base_settings("default", arguments)
    )
    if arguments["teacher_path"] is None and dreams_path is None:
        raise click.UsageError("nothing to prune: pass --teacher, --dreams or both")

    from recover.finished import finished_report
    from recover.folder import RunFolder
    from recover.oneshot import in_one_shot, prune_student, pruning_config
    from recover.preparation import prepare
    from recover.prune import images_to_plan_by, plan_pruning

    in_one_shot(config)  # refuses what needs steps
    is_again = False
    if out is not None:
        is_again = RunFolder(out, {}).is_finished and not (overwrite or dry_run)
        RunFolder(out, {}).refuse_finished(overwrite=overwrite or dry_run or is_again)
    teacher, dreams = _open(dreams_path, arguments)
    report, pruning = None, pruning_config(config, dreams)
    if out is not None and is_again:
        report = finished_report(pruning, teacher, dreams, None, out)
    mismatch: dict[str, Any] = {"allow_teacher_mismatch": allow_teacher_mismatch}
    images, warnings = None, teacher.spec.assumptions
    if dreams is not None:
        setup = prepare(config, teacher, dreams, **mismatch)
        teacher, warnings = setup.teacher, setup.warnings
        images = images_to_plan_by(setup, sensitivity_images)
    with progress_display() as progress:
        plan = plan_pruning(config, teacher, images, progress)
    warn(warnings := (*warnings, *plan.warnings))
    if not as_json:
        _show_plan(plan)
    if report is not None:
        say(f"recover: {out}: already finished")
    elif out is not None and not dry_run:
        with progress_display() as progress:
            report = prune_student(
                config,
                teacher,
                dreams,
                out,
                progress,
                overwrite=overwrite,
                command=command_line(),
                **mismatch,
            )
    made = None if report is None else report.to_json()
    record = {**plan.to_json(), "warnings": warnings, "report": made}
    emit(record, as_json=as_json, render=lambda: _show_report(report))


def _open(dreams_path: Path | None, arguments: dict[str, Any]) -> "tuple[Teacher, DreamSet | None]":
    from shared.dreamset import DreamSet
    from shared.teacher import load_teacher

    if dreams_path is None:
        return load_teacher(arguments["teacher_path"], **teacher_arguments(arguments)), None
    dreams = DreamSet.open(dreams_path)
    return open_teacher(dreams, arguments), dreams


def _show_plan(plan: "PruningPlan") -> None:
    on_dreams, is_smaller = plan.num_images > 0, plan.channels is not None
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            *(["x".join(map(str, layer.shape_left))] if is_smaller else []),
            f"{layer.num_weights:,}",
            f"{layer.num_kept:,}",
            "kept" if layer.never_pruned else percent(layer.sparsity),
            percent(layer.share),
            percent(layer.lost_energy),
            *([percent(layer.lone_agreement)] if on_dreams else []),
        )
        for layer in plan.layers
    ]
    total = (
        "all",
        *([""] * (1 + is_smaller)),
        f"{plan.num_weights:,}",
        f"{plan.num_kept:,}",
        percent(1 - plan.num_kept / plan.num_weights),
        percent(1.0),
        "",
        *([percent(plan.agreement)] if on_dreams else []),
    )
    removed = "removed" if is_smaller else "sparsity"
    what = f"{100 * plan.sparsity:.4g} % sparsity"
    if plan.channels is not None:
        what = f"{100 * plan.channels:.4g} % of its channels"
    columns = ["tensor", "shape", *(["left"] if is_smaller else []), "weights", "kept", removed]
    columns += ["share of kept", "energy lost", *(["agreement, pruned alone"] if on_dreams else [])]
    show_table(f"{plan.architecture} at {what}", columns, [*rows, total])
    if plan.costs is not None:
        from recover.tables import beside_teacher

        click.echo(beside_teacher(plan.costs))


def _show_report(report: "RecoveryReport | None") -> None:
    if report is None:
        return
    if report.pruned.agreement is not None:
        click.echo(
            "agreement with the teacher on held-out dreams: "
            f"pruned {percent(report.pruned.agreement)}, "
            f"repaired {percent(report.repaired.agreement)}"
        )
    show_files(report)
