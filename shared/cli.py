"""What both command lines share: errors as one line, options from a file, tables, JSON.

Results go to stdout, everything else to stderr. No torch at module level: ``--help`` must answer
at once.
"""

import errno
import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.begun import BegunInterrupt
from shared.errors import (
    ConfigError,
    DreamforgeError,
    SpokenForError,
    is_out_of_memory,
)
from shared.files import UnwritableError
from shared.options_file import Setting, read_options
from shared.plain_text import plain
from shared.provenance import now
from shared.signals import interruptible, numpy_first

_NO_TERMINAL = 1000  # columns


class Tool(click.Group):
    """A command group whose errors are one line on stderr and an exit code (see shared.errors)."""

    def __init__(
        self,
        *args: Any,
        resumed: Sequence[str] = (),
        resumed_beside: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Add ``--config`` to the group's own options.

        ``resumed`` are the commands that go on where they were interrupted; ``resumed_beside``
        those that do so beside what they are to replace, which is there until they are done;
        others begin again.
        """
        super().__init__(*args, **kwargs)
        self.resumed = tuple(resumed)
        self.resumed_beside = tuple(resumed_beside)
        prefix = self.context_settings.get("auto_envvar_prefix")
        self.params.append(
            click.Option(
                ["--config"],
                envvar=f"{prefix}_CONFIG" if prefix else None,
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
        if cmd.callback is not None:
            cmd.callback = numpy_first(cmd.callback)
        prefix = self.context_settings.get("auto_envvar_prefix")
        for param in cmd.params:
            if prefix and isinstance(param, click.Option) and param.envvar is None:
                param.envvar = f"{prefix}_{name or cmd.name}_{_key(param)}".replace(
                    "-", "_"
                ).upper()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors and signals into a line and the documented exit code."""
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text
            sys.stdout.reconfigure(errors="replace")
        try:
            with interruptible(), warnings.catch_warnings():
                # Of large or odd images it tells the lines of its own code.
                warnings.filterwarnings("ignore", module="PIL")
                return super().invoke(ctx)
        except click.BadParameter as error:
            if where := _where_said(error):
                said = f"{error.message} ({where})"
                raise click.BadParameter(said, error.ctx, error.param, error.param_hint) from error
            raise
        except SpokenForError as error:
            ctx.exit(error.exit_code)
        except DreamforgeError as error:
            _fail(ctx, str(error), error.exit_code)
        except KeyboardInterrupt as interrupt:
            has_begun = isinstance(interrupt, BegunInterrupt)
            _fail(ctx, f"interrupted; {_how_to_go_on(has_begun=has_begun)}", 130)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads has enough: click ends without a word
                raise
            _fail(ctx, _describe(error), 1)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _fail(ctx, "out of memory: lower --batch-size, or free some (see --dry-run)", 1)


def _where_said(error: click.BadParameter) -> str:
    """Return where the value of an option comes from, or "" where somebody typed it."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return ""
    source = error.ctx.get_parameter_source(error.param.name)
    if source is ParameterSource.ENVIRONMENT:
        return f"from {error.param.envvar}"
    return "from the file of --config" if source is ParameterSource.DEFAULT_MAP else ""


def _fail(ctx: click.Context, message: str, exit_code: int) -> None:
    name = (ctx.find_root().info_name or "").removesuffix("__main__.py")
    say(f"{name}: error: {' '.join(message.split())}")
    ctx.exit(exit_code)


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, UnwritableError):
        advice = "make room, or choose another place" if error.is_full else "choose another place"
        return f"{error.filename}: cannot be written to ({reason}); {advice}"
    return f"{error.filename}: {reason}" if error.filename else reason


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    assert isinstance(ctx.command, Tool)
    known = {name: _settings(command) for name, command in ctx.command.commands.items()}
    try:
        ctx.default_map = read_options(path, known)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _settings(command: click.Command) -> dict[str, Setting]:
    """Return the options by flag, as identifiers, and by the parameter's name: ``n``, too."""
    options = [param for param in command.params if isinstance(param, click.Option) and param.name]
    own = {str(option.name): _setting(option) for option in options}
    return own | {_key(option): _setting(option) for option in options}


def _setting(option: click.Option) -> Setting:
    # Those that take several values say so in their help: LIST, or R,G,B.
    shown = option.metavar or ""
    return Setting(
        parameter=str(option.name),
        is_flag=option.is_flag,
        takes_list="," in shown or shown in ("LIST", "PATTERNS"),
        is_repeated=option.multiple,
    )


def _key(option: click.Option) -> str:
    first = next((flag for flag in option.opts if flag.startswith("--")), option.opts[0])
    return first.lstrip("-").replace("-", "_")


def command_line() -> str:
    """Return the command that is running, as provenance records it.

    The variables that hold options of it stand in front, as in ``RECOVER_RUN_LR=0.01 recover run``.

    Raises:
        ConfigError: If provenance cannot be recorded, since ``SOURCE_DATE_EPOCH`` is no date:
            now, and not at the end of a long run.
    """
    now()
    return _as_typed(_variables(), sys.argv[1:])


def _how_to_go_on(*, has_begun: bool) -> str:
    """Return the command that goes on: without what would remove what has been made.

    Where the work had not begun, ``--overwrite`` has removed nothing, and is needed once more.
    """
    root = click.get_current_context().find_root()
    if root.invoked_subcommand in getattr(root.command, "resumed_beside", ()):
        goes_on = "goes on from here" if has_begun else "begins again"
        return f"the same command {goes_on}: {_as_typed(_variables(), sys.argv[1:])}"
    given, words = _variables(), [word for word in sys.argv[1:] if word != "--overwrite"]
    variables = {name: "0" if name.endswith("_OVERWRITE") else given[name] for name in given}
    if name := _overwrite_in_file():
        variables[name] = "0"  # the environment wins over the file
    changed = variables != given or words != sys.argv[1:]
    is_resumed = root.invoked_subcommand in getattr(root.command, "resumed", ())
    if not is_resumed or (changed and not has_begun):
        return f"the same command begins again: {_as_typed(given, sys.argv[1:])}"
    which = "without --overwrite the command" if changed else "the same command"
    return f"{which} goes on from here: {_as_typed(variables, words)}"


def _overwrite_in_file() -> str:
    """Return the variable for ``overwrite`` of the running command if --config says yes, or ""."""
    root = click.get_current_context().find_root()
    in_file = (root.default_map or {}).get(root.invoked_subcommand or "", {})
    names = [param.envvar for param in _params() if param.name == "overwrite"]
    if not names or not click.BOOL.convert(in_file.get("overwrite", False), None, None):
        return ""
    return str(names[0] or "")


def _as_typed(variables: Mapping[str, str], arguments: Sequence[str]) -> str:
    words = [f"{name}={shlex.quote(text)}" for name, text in variables.items()]
    # The name may be two words, "python -m dreamforge", so it is not quoted.
    words.append(str(click.get_current_context().find_root().info_name))
    return " ".join([*words, shlex.join(arguments)])


def _variables() -> dict[str, str]:
    """Return those of the environment that the running command takes options from."""
    root = click.get_current_context().find_root().command
    names = [str(param.envvar) for param in (*root.params, *_params()) if param.envvar]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _params() -> list[click.Parameter]:
    """Return the arguments and options of the running command."""
    root = click.get_current_context().find_root()
    commands = root.command.commands if isinstance(root.command, Tool) else {}
    running = commands.get(root.invoked_subcommand or "")
    return running.params if running else []


def emit(
    record: Mapping[str, Any] | Sequence[Any], *, as_json: bool, render: Callable[[], None]
) -> None:
    """Put the result on stdout: ``record`` as JSON, or whatever ``render`` prints."""
    if as_json:
        click.echo(json.dumps(record, indent=2, allow_nan=False))
    else:
        render()


def say(text: str) -> None:
    """Print a remark to stderr: an assumption, a warning, a plan. Never interpreted as markup.

    That a log is full, or nobody reads it any more, is no reason to end hours of work.
    """
    with suppress(OSError):
        click.echo(plain(text), err=True)


def remark(kind: str, texts: Iterable[str], *, aloud: bool = True) -> list[str]:
    """Say each text behind its kind, ``assumed`` or ``warning``; return all, for ``--json``."""
    remarks = list(texts)
    for text in remarks if aloud else ():
        say(f"{kind}: {text}")
    return remarks


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; the first column is left-aligned, numbers to the right.

    Cells are plain text: markup in a file's strings stays text, escapes become ``?``. Where all
    columns are nameless, it is a list of facts, without a head and with all cells to the left.
    Names in the first column of a table are never wrapped, and nothing is where no terminal sets a
    width.
    """
    headed = any(columns)
    table = Table(title=Text(plain(title)), title_justify="left", show_header=headed)
    for number, column in enumerate(columns):
        justify: Any = "right" if number and headed else "left"
        table.add_column(
            Text(plain(column)),
            justify=justify,
            overflow="fold",  # digests stay whole
            no_wrap=headed and number == 0,
        )
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    width = None if Console().is_terminal else _NO_TERMINAL
    Console(highlight=False, width=width).print(table)


def format_duration(seconds: float) -> str:
    """Return ``2 h 5 min`` or ``3 min 20 s``, the smaller unit rounded."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
