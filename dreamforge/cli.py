"""``dreamforge``: make dream sets, and look into the ones that others made."""

import time
from pathlib import Path
from typing import Any

import click

from dreamforge.cli_convert import CONVERSIONS, TEACHER
from dreamforge.cli_sets import SET_COMMANDS
from dreamforge.config import SynthesisConfig, refuse_for_sigmoids
from dreamforge.presets import PRESETS, preset_values
from dreamforge.remarks import remarks_on_loss
from shared.begun import begun
from shared.cli import Tool, command_line, emit, format_duration, remark, show_table
from shared.cli_options import (
    FILE,
    build_config,
    config_options,
    teacher_arguments,
    teacher_options,
)
from shared.cli_progress import progress_display
from shared.errors import ConfigError

CONTEXT = {"auto_envvar_prefix": "DREAMFORGE", "help_option_names": ["-h", "--help"]}


@click.group(
    cls=Tool, context_settings=CONTEXT, resumed=("synth",), resumed_beside=("import", "draw")
)
@click.version_option(package_name="dreamforge-recover", prog_name="dreamforge")
def main() -> None:
    """Turn a trained classifier into a dream set: images it recognises, made from it alone.

    Exit codes: 0 fine; 1 failed, or a check found something; 2 usage; 3 bad input file;
    4 inputs that do not belong together; 130 interrupted, the same command goes on.
    """


@main.command()
@TEACHER
@click.option(
    "--out", type=FILE, default=Path("dreams.h5"), help="index file  [default: dreams.h5]"
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="default",
    help="named settings; flags win over them",
)
@config_options(SynthesisConfig)
@teacher_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1")
@click.option(
    "--gpus",
    "--processes",
    "gpus",
    metavar="all|N|0,1,3",
    help="one process per GPU of this machine: all, how many, or which; on the CPU, N processes",
)
@click.option("--worker", metavar="I/N", help="make only every N-th shard, beginning with I")
@click.option("--embed-teacher", is_flag=True, help="put the teacher's weights into the index")
@click.option("--license", "licence", default="unspecified", help="SPDX name, for the provenance")
@click.option(
    "--overwrite",
    is_flag=True,
    help="remove the set that is there, before the first shard of the new one is made",
)
@click.option(
    "--dry-run",
    "--estimate",
    "dry_run",
    is_flag=True,
    help="time a few steps, print the plan and what it will cost, write nothing",
)
@click.option("--json", "as_json", is_flag=True, help="the result as JSON on stdout")
def synth(teacher: Path, out: Path, preset: str, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Invert TEACHER into a dream set. The same command again goes on where it stopped.

    \b
    Examples:
      dreamforge synth --teacher resnet50.pt --n 50000 --out dreams.h5
      dreamforge synth --teacher resnet20.th --n 1024 --steps 200
      dreamforge synth --teacher resnet50.pt --n 50000 --gpus all
      torchrun --nproc-per-node 8 -m dreamforge synth --teacher resnet50.pt --num-images 50000
    """
    from dreamforge.batch_size import settle_batch_size
    from dreamforge.compile_choice import settle_compile
    from dreamforge.units import usual_units
    from shared.device import resolve_device
    from shared.manifest import printable
    from shared.teacher import load_teacher
    from shared.workers import find_worker, speaks_for_all

    worker, local_rank = find_worker(options["worker"])
    aloud = speaks_for_all(options["worker"])
    devices = _devices(options["gpus"], options["device"], local_rank)
    device = resolve_device(devices[0] if devices else options["device"], local_rank)
    loaded = load_teacher(teacher, needs_batch_norm=True, **teacher_arguments(options))
    assumptions = [printable(text, 200) for text in loaded.spec.assumptions]
    warnings = remark("assumed", assumptions, aloud=aloud)
    image_shape = loaded.spec.image_shape
    preset_settings = preset_values(preset, max(image_shape[1:]))
    asked = build_config(SynthesisConfig, options, preset_settings)
    refuse_for_sigmoids(asked, loaded.spec)
    warnings += remark("note", usual_units(loaded, asked.method).remarks, aloud=aloud)
    config, note = settle_batch_size(
        loaded,
        asked,
        device,
        out,
        num_sharing=max(1, devices.count(devices[0])) if devices else 1,
        apart=worker.count > 1,
        overwrite=options["overwrite"],
    )
    warnings += remark("note", [note] if note else [], aloud=aloud)
    if options["dry_run"]:
        config = settle_compile(loaded, config.resolve(image_shape), device)
        record, rows = _plan(loaded, config, out, device, embed_teacher=options["embed_teacher"])
        record["warnings"] = warnings
        emit(record, as_json=as_json, render=lambda: show_table("Plan", ("", ""), rows))
        return
    result = _run(
        loaded,
        config,
        out,
        device,
        devices=devices,
        worker=worker,
        may_lower=asked.batch_size is None and worker.count == 1,
        teacher_path=teacher,
        preset=preset,
        options=options,
    )
    warnings += remark("note", result.notes)
    warnings += remark("warning", remarks_on_loss(config, result.quality))
    record = {
        "out": str(result.out),
        "finished": result.finished,
        "num_images": result.num_images,
        "num_shards": result.num_shards,
        "num_shards_made": result.num_made,
        "seconds": round(result.seconds, 3),
        "teacher_accuracy_on_dreams": result.quality.get("teacher_accuracy"),
        "mean_confidence": result.quality.get("mean_confidence"),
        "mean_loss": result.quality.get("mean_loss"),
        "warnings": warnings,
    }
    emit(record, as_json=as_json, render=lambda: _show_result(record))


def _devices(gpus: str | None, device: str, local_rank: int | None) -> list[str]:
    """Return the devices, by name, that ``--gpus`` wants a process for; none without it."""
    from shared.device import devices_of

    if gpus is None:
        return []
    if local_rank is not None:
        raise ConfigError(f"--gpus {gpus}: torchrun starts a process per device already; leave it")
    return devices_of(gpus, device)


def _run(
    loaded: Any,
    config: SynthesisConfig,
    out: Path,
    device: Any,
    *,
    devices: list[str],
    worker: Any,
    may_lower: bool,
    teacher_path: Path,
    preset: str,
    options: dict[str, Any],
) -> Any:
    """Make the set, in this process or in one per device."""
    from dreamforge.batch_size import with_smaller_batches
    from dreamforge.forge import synthesize
    from dreamforge.processes import Job, synthesize_on
    from shared.device import describe_device
    from shared.provenance import provenance

    # A set that is finished may need a repair: not worth several processes reading all of it.
    several = len(devices) > 1 and (options["overwrite"] or not out.exists())
    facts = provenance(
        device="" if several else describe_device(device), command=command_line()
    ) | {"license": options["licence"], "preset": preset}
    chosen = {
        "provenance": facts,
        "embed_teacher": options["embed_teacher"],
        "overwrite": options["overwrite"],
    }

    def run(resolved: SynthesisConfig) -> Any:
        if not several:
            return synthesize(
                loaded, resolved, out, device, worker=worker, progress=progress, **chosen
            )
        job = Job(
            teacher=teacher_path,
            teacher_options=teacher_arguments(options),
            config=resolved,
            out=out,
            **chosen,
        )
        return synthesize_on(devices, job, worker=worker, progress=progress)

    with begun(), progress_display() as progress:
        return with_smaller_batches(run, loaded, config, out, may_lower=may_lower)


def _show_result(record: dict[str, Any]) -> None:
    if not record["finished"]:
        click.echo(f"{record['num_shards_made']} shards made; other workers still owe theirs")
        return
    made = record["num_shards_made"]
    accuracy = record["teacher_accuracy_on_dreams"]
    click.echo(
        f"{record['out']}: {record['num_images']} dreams in {record['num_shards']} shards"
        + (f", {made} made now in {record['seconds']:.0f} s" if made else ", already finished")
        + f"; the teacher recognises {accuracy:.1%} as what they were made for"
    )


def _plan(
    loaded: Any, config: SynthesisConfig, out: Path, device: Any, *, embed_teacher: bool
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the plan of a run and what it will cost: for programs, and as rows of a table."""
    from dreamforge.estimate import estimate
    from dreamforge.plan import plan_shards
    from shared.device import describe_device

    spec = loaded.spec
    num_shards = len(plan_shards(config, out))  # before anything is timed: they may be too many
    started = time.process_time()
    costs = estimate(loaded, config, device, embed_teacher=embed_teacher, seconds_to_start=started)
    record = {
        "teacher": spec.to_json(),
        "device": describe_device(device),
        "config": config.to_json(),
        "num_shards": num_shards,
        "out": str(out),
        **costs,
    }
    seconds = 3600 * costs["hours"]
    rows = [
        ("teacher", f"{spec.architecture}, {spec.num_classes} classes, {spec.image_shape}"),
        ("dreams", f"{config.num_images} in batches of {config.batch_size}"),
        ("steps", f"{config.steps} per batch"),
        ("files", f"{out} and {num_shards} shards beside it"),
        ("disk", f"{costs['num_bytes_on_disk'] / 2**20:,.0f} MiB"),
        (
            "memory",
            f"about {costs['num_bytes_in_memory'] / 2**20:,.0f} MiB for a batch, "
            f"{costs['num_bytes_free'] / 2**20:,.0f} MiB free; "
            f"the process took {costs['num_bytes_of_process'] / 2**20:,.0f} MiB in all to time it",
        ),
        (
            "time",
            f"about {format_duration(seconds)} "
            f"at {costs['image_steps_per_second']:,.0f} image-steps/s "
            f"(timed with batches of {costs['timed_batch_size']}); "
            f"on 8 such devices {format_duration(3600 * costs['hours_on_8_devices'])}",
        ),
        ("device", record["device"]),
    ]
    return record, rows


for _command in (*SET_COMMANDS, *CONVERSIONS):
    main.add_command(_command)
