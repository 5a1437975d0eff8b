"""What both command lines share: errors as one line, options from configs, progress, JSON.

Results go to stdout, everything else to stderr. No torch at module level: ``--help`` must answer
at once.
"""

import dataclasses
import json
import shlex
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.config import AUTO, flag_of, options_of
from shared.errors import (
    ConfigError,
    DreamforgeError,
    InputFileError,
    SpokenForError,
    is_out_of_memory,
)
from shared.options_file import read_options

_NO_TERMINAL = 1000  # columns


class Tool(click.Group):
    """A command group whose errors are one line on stderr and an exit code (see shared.errors)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add ``--config`` to the group's own options."""
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--config"],
                type=click.Path(dir_okay=False, path_type=Path),
                is_eager=True,
                expose_value=False,
                callback=_read_config,
                help="TOML file with a table of options per command; environment and flags win.",
            )
        )

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command whose options the environment names by flag: ``DREAMFORGE_SYNTH_N``."""
        super().add_command(cmd, name)
        prefix = self.context_settings.get("auto_envvar_prefix")
        for param in cmd.params:
            if prefix and isinstance(param, click.Option) and param.envvar is None:
                param.envvar = f"{prefix}_{name or cmd.name}_{_key(param)}".replace(
                    "-", "_"
                ).upper()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors and signals into a line and the documented exit code."""
        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except SpokenForError as error:
            ctx.exit(error.exit_code)
        except DreamforgeError as error:
            _fail(ctx, str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail(ctx, f"interrupted; the same command goes on from here: {command_line()}", 130)
        except OSError as error:
            _fail(ctx, _describe(error), 1)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _fail(ctx, "out of memory: lower --batch-size, or free some (see --dry-run)", 1)


def _fail(ctx: click.Context, message: str, exit_code: int) -> None:
    name = (ctx.find_root().info_name or "").removesuffix("__main__.py")
    line = " ".join(message.split())  # names in it may come from a file: no terminal escapes
    line = "".join(char if char.isprintable() else "?" for char in line)
    click.echo(f"{name}: error: {line}", err=True)
    ctx.exit(exit_code)


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM (a scheduler's preemption) like Ctrl-C: clean up, say how to resume."""

    def interrupt(signum: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: a program that calls us owns its signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    assert isinstance(ctx.command, Tool)
    known = {name: _parameters(command) for name, command in ctx.command.commands.items()}
    try:
        ctx.default_map = read_options(path, known)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _parameters(command: click.Command) -> dict[str, str]:
    """Return the parameter's name by flag, as identifiers: ``num_images`` of ``n``."""
    options = [param for param in command.params if isinstance(param, click.Option) and param.name]
    own = {str(option.name): str(option.name) for option in options}
    return own | {_key(option): str(option.name) for option in options}


def _key(option: click.Option) -> str:
    first = next((flag for flag in option.opts if flag.startswith("--")), option.opts[0])
    return first.lstrip("-").replace("-", "_")


def config_options(
    config_class: Any, without: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds one flag for every :func:`shared.config.option` of a config.

    But for the fields named in ``without``.

    Flags that are not given arrive as None, so that :func:`build_config` can tell them from
    presets and defaults; ``auto``, where an option takes it, as that word.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field, chosen in reversed(options_of(config_class)):
            if field.name in without:
                continue
            kind = _plain_type(field.type)
            flag, text = flag_of(field), chosen.help
            names = [flag, field.name]
            if chosen.flag:  # torchrun takes --n for its own --nnodes, so the long name works, too
                names.append("--" + field.name.replace("_", "-"))
            if kind is bool:
                names = [f"{flag}/--no-{flag.removeprefix('--')}", field.name]
            if field.default is not None:
                shown = field.default
                if kind is bool:
                    shown = flag if field.default else f"--no-{flag.removeprefix('--')}"
                text = f"{text}  [default: {shown}]"
            command = click.option(
                *names,
                type=bool if kind is bool else _click_type(kind, chosen),
                default=None,
                metavar=chosen.metavar,
                help=text,
            )(command)
        return command

    return decorate


def build_config(
    config_class: Any, arguments: Mapping[str, Any], preset: Mapping[str, Any] | None = None
) -> Any:
    """Return the config of parsed ``arguments``: flags win over ``preset``, preset over default.

    Raises:
        ConfigError: If a value is out of bounds, or values do not go together.
    """
    names = {field.name for field in dataclasses.fields(config_class)}
    automatic = {field.name for field, chosen in options_of(config_class) if chosen.auto}
    given = {
        name: None if value == AUTO and name in automatic else value
        for name, value in arguments.items()
        if name in names and value is not None
    }
    return config_class(**{**(preset or {}), **given})


def _plain_type(annotation: Any) -> type:
    """Return ``int`` of ``int | None``."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
    return kinds[0] if kinds else annotation


def _click_type(kind: type, chosen: Any) -> Any:
    if chosen.choices is not None:
        return click.Choice(chosen.choices)
    if kind not in (int, float):
        return kind
    low = chosen.above if chosen.min is None else chosen.min
    high = chosen.below if chosen.max is None else chosen.max
    if low is None and high is None:
        return kind
    make: Any = click.IntRange if kind is int else click.FloatRange
    bounded = make(
        min=low,
        max=high,
        min_open=chosen.min is None and low is not None,
        max_open=chosen.max is None and high is not None,
    )
    return _or_auto(bounded) if chosen.auto else bounded


def _or_auto(number: Any) -> Callable[[Any], Any]:
    """Return a click type: a number, or the word that undoes a preset's number, too."""

    def convert(value: Any) -> Any:
        return value if value == AUTO else number.convert(value, None, None)

    return convert


def teacher_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which teacher it is and how it sees images, but for its path."""
    for option in reversed(
        (
            click.option("--arch", metavar="NAME", help="architecture, if the tensors do not tell"),
            click.option("--image-size", metavar="PX", help="224, or HEIGHTxWIDTH"),
            click.option(
                "--mean", metavar="R,G,B", help="of its preprocessing, for pixels in [0,1]"
            ),
            click.option("--std", metavar="R,G,B", help="likewise"),
            click.option(
                "--class-names",
                type=click.Path(path_type=Path),
                help="text file, one name a line, in the order of the logits",
            ),
        )
    ):
        command = option(command)
    return command


def teacher_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of :func:`teacher_options` as shared.teacher.load_teacher takes them."""
    return {
        "architecture": arguments["arch"],
        "image_size": parse_image_size(arguments["image_size"]),
        "mean": parse_floats("--mean", arguments["mean"]),
        "std": parse_floats("--std", arguments["std"]),
        "class_names": read_class_names(arguments["class_names"]),
    }


def parse_floats(flag: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of ``0.5,0.5,0.5``, or None for None."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{flag}: found {text!r}, expected numbers such as 0.5,0.5") from error


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of ``224`` or ``240x320``, or None for None."""
    if text is None:
        return None
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or any(side < 1 for side in sides):
        raise ConfigError(f"--image-size: found {text!r}, expected 224 or HEIGHTxWIDTH")
    return sides[0], sides[-1]


def read_class_names(path: Path | None) -> tuple[str, ...] | None:
    """Return the lines of a text file with one class name a line, in the order of the logits."""
    if path is None:
        return None
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"--class-names {path}: {error}") from error


def command_line() -> str:
    """Return the command that is running, as provenance records it."""
    # The name may be two words, "python -m dreamforge", so it is not quoted.
    return f"{click.get_current_context().find_root().info_name} {shlex.join(sys.argv[1:])}"


def emit(
    record: Mapping[str, Any] | Sequence[Any], *, as_json: bool, render: Callable[[], None]
) -> None:
    """Put the result on stdout: ``record`` as JSON, or whatever ``render`` prints."""
    if as_json:
        click.echo(json.dumps(record, indent=2, allow_nan=False))
    else:
        render()


def say(text: str) -> None:
    """Print a remark to stderr: an assumption, a warning, a plan. Never interpreted as markup."""
    click.echo(text, err=True)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; the first column is left-aligned, numbers to the right.

    Cells are plain text: markup in a file's strings stays text. Where all columns are nameless,
    it is a list of facts, without a head and with all cells to the left. Names in the first column
    of a table are never wrapped, and nothing is where no terminal sets a width.
    """
    headed = any(columns)
    table = Table(title=Text(title), title_justify="left", show_header=headed)
    for number, column in enumerate(columns):
        justify: Any = "right" if number and headed else "left"
        table.add_column(
            Text(column),
            justify=justify,
            overflow="fold",  # digests stay whole
            no_wrap=headed and number == 0,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None if Console().is_terminal else _NO_TERMINAL
    Console(highlight=False, width=width).print(table)


def format_duration(seconds: float) -> str:
    """Return ``2 h 5 min`` or ``3 min 20 s``, the smaller unit rounded."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
