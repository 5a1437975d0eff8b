"""Options and remarks that several commands of ``recover`` share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from recover.config import RecoverConfig
from recover.presets import PRESETS
from recover.settings import base_settings, remark_on_student
from shared.cli import say
from shared.cli_options import (
    FILE,
    build_config,
    config_options,
    teacher_arguments,
    teacher_options,
)
from shared.plain_text import plain
from shared.workers import speaks_for_all

if TYPE_CHECKING:
    from recover.report import RecoveryReport
    from shared.dreamset import DreamSet
    from shared.evaldata import EvalData
    from shared.spec import TeacherSpec
    from shared.teacher import Teacher


DREAMS = click.option(
    "--dreams", "dreams_path", type=FILE, required=True, help="index of the dream set"
)
EVAL_DATA = click.option(
    "--eval-data",
    metavar="SOURCE",
    help="real images to judge by: a folder per class, cifar10:ROOT, or a table of findings (.csv)",
)
TEACHER = click.option(
    "--teacher",
    "teacher_path",
    type=FILE,
    help="checkpoint of the teacher  "
    "[default: embedded in the dream set, or at the path it records]",
)
MISMATCH = click.option(
    "--allow-teacher-mismatch", is_flag=True, help="accept dreams of a teacher of other weights"
)
PRESET = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="default",
    help="named settings; flags win over them",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="the result as JSON on stdout")


def recovery_options(*, without: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Return a decorator with everything that decides a recovery, but for the dream set.

    Args:
        without: Fields of the config that the command has its own option for.
    """
    config = config_options(RecoverConfig, without)

    def decorate(command: Any) -> Any:
        for option in (config, PRESET, MISMATCH, EVAL_DATA, teacher_options, TEACHER):
            command = option(command)
        return command

    return decorate


def recovery_config(
    preset: str, arguments: dict[str, Any], chosen_later: tuple[str, ...] = ()
) -> RecoverConfig:
    """Return the config of a command's options; what --student chose is said on stderr.

    Args:
        preset: Its name.
        arguments: Of the command.
        chosen_later: Fields that something else will choose: nothing is said of them.
    """
    remark = remark_on_student(preset, arguments | dict.fromkeys(chosen_later, "later"))
    if remark is not None and speaks_for_all():
        say(f"recover: {remark}")
    config: RecoverConfig = build_config(RecoverConfig, arguments, base_settings(preset, arguments))
    return config


def open_teacher(dreams: "DreamSet", arguments: dict[str, Any]) -> "Teacher":
    """Return the teacher that the options or the dream set name."""
    from recover.sources import find_teacher

    return find_teacher(dreams, arguments["teacher_path"], **teacher_arguments(arguments))


def open_real_images(source: str | None, spec: "TeacherSpec") -> "EvalData | None":
    """Return the images of ``--eval-data``, None without."""
    if source is None:
        return None
    from shared.evaldata import open_eval_data

    return open_eval_data(source, spec)


def warn(warnings: tuple[str, ...]) -> None:
    """Print each warning to stderr."""
    for text in warnings:
        say(f"recover: warning: {text}")


def show_files(report: "RecoveryReport") -> None:
    """Print what the student has learnt from, where that is not dreams alone, and where it is."""
    counts = report.fact("dreams", "num_train"), report.fact("unlabeled", "num_images")
    if all(isinstance(count, int) for count in counts):  # files may have anything there
        click.echo("taught on {:,} dreams and {:,} real images".format(*counts))
    out = plain(report.out)
    click.echo(f"student: {out}/student.safetensors")
    click.echo(f"report: {out}/report.json")


def area(value: float | None) -> str:
    """Return ``0.9312``, as areas under curves are given, or a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def percent(fraction: float | None) -> str:
    """Return ``81.60 %``, or a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
