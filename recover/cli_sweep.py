"""``recover sweep`` and ``recover report``: many levels of sparsity, and the page that shows them.

Strings of reports come from files that somebody else may have made: they are shown as plain text.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recover.cli_budget import BUDGET, Budget, refuse_to_overwrite
from recover.cli_options import (
    AS_JSON,
    DREAMS,
    open_real_images,
    open_teacher,
    recovery_config,
    recovery_options,
    warn,
)
from recover.settings import DEFAULT_LEVELS, student_suffix
from shared.cli import command_line, emit, format_duration, say, show_table
from shared.cli_options import FILE
from shared.cli_progress import progress_display
from shared.errors import ConfigError

if TYPE_CHECKING:
    from recover.plan import RecoveryPlan
    from recover.sweep import Level
    from recover.tables import Table
    from shared.workers import Worker


@click.command()
@DREAMS
@click.option(
    "--sparsity",
    "sparsities",
    metavar="LIST",
    help="the levels: fractions of the prunable weights that become zero  "
    f"[default: {DEFAULT_LEVELS}]",
)
@click.option(
    "--channels",
    metavar="LIST",
    help="levels of another kind: fractions of every layer's channels that are kept, such as "
    "0.75,0.5,0.25",
)
@click.option(
    "--out",
    type=FILE,
    help="folder of the levels' folders  [default: <dreams>-sweep, here]",
)
@recovery_options(without=("sparsity", "channels", "pattern"))
@BUDGET
@click.option(
    "--warm-start/--no-warm-start",
    default=None,
    help="start each level from the student of the level below, instead of each from the teacher  "
    "[default: yes, but with several workers, with --channels in one shot, and where levels that "
    "are there started otherwise]",
)
@click.option("--worker", metavar="I/N", help="run only every N-th level, beginning with I")
@click.option(
    "--overwrite",
    is_flag=True,
    help="replace each level in --out, once it is finished; a worker replaces only its own",
)
@click.option("--dry-run", is_flag=True, help="time a few steps, print the plan, write nothing")
@AS_JSON
def sweep(
    dreams_path: Path,
    sparsities: str | None,
    channels: str | None,
    out: Path | None,
    eval_data: str | None,
    preset: str,
    budget: str | None,
    warm_start: bool | None,  # noqa: FBT001
    worker: str | None,
    as_json: bool,  # noqa: FBT001
    **arguments: Any,
) -> None:
    """Do `recover run` at several levels.

    Each is in a folder of its own below --out. Levels are sparsities, or with --channels fractions
    of channels. Each level starts from the student of the level below, the less pruned one, and so
    has the steps of all below it, too; under torchrun, or with --worker, levels are shared out, and
    each starts from the teacher.

    The same command again runs what is not finished: a level that was interrupted goes on from
    its checkpoint, a finished one stays.

    --budget is for the whole sweep: every level gets the same number of steps.

    \b
    Examples:
      recover sweep --dreams dreams.h5 --sparsity 0.5,0.8,0.9,0.95
      recover sweep --dreams dreams.h5 --channels 0.75,0.5,0.25 --out slim
      recover sweep --dreams dreams.h5 --eval-data cifar10:data --out levels --json
      recover sweep --dreams dreams.h5 --out levels --worker 0/2
      torchrun --nproc-per-node 4 -m recover sweep --dreams dreams.h5 --out levels
    """
    from recover.levels import asked_levels
    from recover.preparation import prepare
    from recover.sweep import finished_results, plan_levels, run_sweep, starts_warm
    from recover.tables import levels_table
    from recover.warm_start import warm_starts
    from shared.device import resolve_device
    from shared.dreamset import DreamSet
    from shared.workers import find_worker

    time_given = Budget(budget, arguments["steps"])
    me, local_rank = find_worker(worker)
    overwrite, mismatch = arguments["overwrite"], arguments["allow_teacher_mismatch"]
    levels = asked_levels(sparsities, channels)
    base = recovery_config(preset, {**arguments, **levels[-1]})
    base = dataclasses.replace(base, device=str(resolve_device(base.device, local_rank)))
    configs = [dataclasses.replace(base, **level) for level in levels]
    out = out or Path(f"{dreams_path.stem}{student_suffix(base)}-sweep")
    dreams = DreamSet.open(dreams_path)
    teacher = open_teacher(dreams, arguments)
    real = open_real_images(eval_data, teacher.spec)
    if budget is not None:
        refuse_to_overwrite(me, overwrite=overwrite)
        setup = prepare(configs[-1], teacher, dreams, allow_teacher_mismatch=mismatch)

    def planned() -> "list[Level]":
        asked, warm = configs, warm_start
        if budget is not None:
            num_mine, write = -(-len(levels) // me.count), not arguments["dry_run"]
            fit = time_given.fit(
                setup, out, real, num_levels=num_mine, overwrite=overwrite, write=write
            )
            chosen: Any = {"steps": fit.steps, "importance": fit.importance}
            asked = [dataclasses.replace(config, **chosen) for config in asked]
        if warm is None:
            warm = starts_warm(asked, me, out, overwrite=overwrite)
        if warm:
            _refuse_workers(me)
            asked = list(warm_starts(asked))
        return plan_levels(asked, teacher, dreams, real, out, overwrite=overwrite)

    plan = planned()
    if arguments["dry_run"]:
        _dry_run(plan, me, teacher, dreams, mismatch=mismatch, as_json=as_json)
        return
    if not overwrite and not time_given.settle():
        plan = planned()  # with what another worker has just chosen
    with progress_display() as progress:
        mine = run_sweep(
            plan,
            teacher,
            dreams,
            real,
            me,
            progress,
            overwrite=overwrite,
            promised=None if budget is None else time_given.settle,
            allow_teacher_mismatch=mismatch,
            command=command_line(),
            remarks=time_given.warnings,
        )
    results = finished_results(plan, overwrite=overwrite)
    if len(results) < len(plan):
        say(f"recover: {len(results)} of {len(plan)} levels are finished, other workers have more")
    if worker is None and me.count > 1 and (len(results) < len(plan) or not (mine or me.leads)):
        return  # of a launcher's processes, which share a terminal, one shows the whole
    warn(tuple(dict.fromkeys(text for result in results for text in result.report.warnings)))
    emit(
        [result.report.to_json() for result in results],
        as_json=as_json,
        render=lambda: _show_sweep(levels_table(results), out),
    )


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=FILE)
@click.option(
    "--out", "-o", type=FILE, default=Path("report.html"), show_default=True, help="page to write"
)
@click.option(
    "--bound",
    "bounds",
    metavar="DIR",
    multiple=True,
    type=FILE,
    help="the same runs on real images instead of dreams, to compare with; may be repeated",
)
@click.option("--preview", type=FILE, help="PNG of the dreams, from dreamforge preview")
@click.option("--title", default="Recovery report", show_default=True, help="heading of the page")
@click.option("--overwrite", is_flag=True, help="replace the page that is there")
@AS_JSON
def report(
    folders: tuple[Path, ...],
    out: Path,
    bounds: tuple[Path, ...],
    preview: Path | None,
    title: str,
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Make one HTML page of the runs and sweeps in DIR...

    Markdown is written beside it. The page needs nothing but itself: figures and the preview are
    inside it.

    \b
    Examples:
      recover report levels --out report.html
      recover report dreams-s0.8 dreams-s0.9 --preview dreams.png
      recover report levels --bound real-levels --out report.html --overwrite
    """
    from recover.publish import publish

    published = publish(
        folders, out, bounds=bounds, preview=preview, title=title, overwrite=overwrite
    )
    warn(published.remarks)
    emit(
        {
            "html": str(published.html),
            "markdown": str(published.markdown),
            "remarks": list(published.remarks),
            "runs": [result.report.to_json() for result in published.results],
        },
        as_json=as_json,
        render=lambda: _show_published(published.table, published.html, published.markdown),
    )


SWEEP_COMMANDS = (sweep, report)


def _refuse_workers(me: "Worker") -> None:
    if me.count > 1:
        raise ConfigError(
            f"--warm-start: found {me.count} workers, expected one: each level waits for the one "
            "below"
        )


def _dry_run(
    levels: "list[Level]", me: "Worker", teacher: Any, dreams: Any, *, mismatch: bool, as_json: bool
) -> None:
    from recover.plan import plan_recovery
    from recover.preparation import prepare

    mine = [level for level in levels if level.state != "finished" and me.makes(level.number)]
    plan = None
    if mine:
        # Steps cost the same at every sparsity: the zeros are multiplied, too.
        config = mine[-1].config
        plan = plan_recovery(prepare(config, teacher, dreams, allow_teacher_mismatch=mismatch))
        warn(plan.warnings)
    record = {
        "levels": [
            {
                "sparsity": level.sparsity,
                "channels": level.config.channels,
                "level": level.label,
                "out": str(level.folder),
                "state": level.state,
                "worker": level.number % me.count,
            }
            for level in levels
        ],
        "seconds_per_level": plan.seconds if plan else 0.0,
        "seconds": plan.seconds * len(mine) if plan else 0.0,
        "device": plan.device if plan else None,
        "warnings": plan.warnings if plan else [],
    }
    emit(record, as_json=as_json, render=lambda: _show_dry_run(record, plan, len(mine)))


def _show_dry_run(record: dict[str, Any], plan: "RecoveryPlan | None", num_mine: int) -> None:
    rows = [
        (level["level"], level["state"], str(level["worker"]), level["out"])
        for level in record["levels"]
    ]
    show_table("levels", ["pruned to", "state", "worker", "out"], rows)
    if plan is not None:
        click.echo(
            f"levels to run here: {num_mine}, {format_duration(record['seconds_per_level'])} each "
            f"+ judging, {format_duration(record['seconds'])} together, on {plan.device}"
        )


def _show_sweep(table: "Table", out: Path) -> None:
    show_table(table.title, table.columns, table.rows)
    click.echo(f"recover report {out} makes a page of it")


def _show_published(table: "Table", html: Path, markdown: Path) -> None:
    show_table(table.title, table.columns, table.rows)
    click.echo(f"page: {html}")
    click.echo(f"markdown: {markdown}")
