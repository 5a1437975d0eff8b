"""Command-line options that follow from config fields, and those that describe a teacher.

No torch at module level: ``--help`` must answer at once.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from shared.config import AUTO, MOST, flag_of, kind_of, options_of
from shared.errors import ConfigError, InputFileError


class FilePath(click.Path):
    """A path of a file or folder. Nothing is none: as a path it is the folder that one is in."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path_type=Path, **kwargs)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; fail where there is nothing."""
        if value == "":
            self.fail("found nothing, expected a path", param, ctx)
        return super().convert(value, param, ctx)


FILE = FilePath()


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
            kind = kind_of(field)
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


class _Number(click.FloatRange):
    """A range of numbers. What is no number at all is told so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not _is_read_by(float, value):
            self.fail(f"found {value!r}, expected a number", param, ctx)
        return super().convert(value, param, ctx)


class _WholeNumber(click.IntRange):
    """A range whose help does not tell that no file holds numbers of more than 63 bits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not _is_read_by(int, value):
            self.fail(f"found {value!r}, expected a whole number", param, ctx)
        number = super().convert(value, param, ctx)
        if number > MOST:
            self.fail(f"found {number}, expected at most {MOST}", param, ctx)
        return number


COUNT = _WholeNumber(min=1)
PROBABILITY = _Number(min=0, max=1)


def _is_read_by(kind: type[int] | type[float], value: Any) -> bool:
    try:
        kind(value)
    except (TypeError, ValueError):
        return False
    return True


def _click_type(kind: type, chosen: Any) -> Any:
    if chosen.choices is not None:
        return click.Choice(chosen.choices)
    if kind not in (int, float):
        return kind
    low = chosen.above if chosen.min is None else chosen.min
    high = chosen.below if chosen.max is None else chosen.max
    if low is None and high is None:
        return kind
    make: Any = _WholeNumber if kind is int else _Number
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
            click.option(
                "--arch",
                metavar="NAME",
                help="architecture, if the tensors do not tell: a name, timm:NAME, or "
                "package.module:factory, called with num_classes=... or with nothing where it does "
                "not take it",
            ),
            click.option("--image-size", metavar="PX", help="224, or HEIGHTxWIDTH"),
            click.option(
                "--mean", metavar="R,G,B", help="of its preprocessing, for pixels in [0,1]"
            ),
            click.option("--std", metavar="R,G,B", help="likewise"),
            click.option(
                "--class-names",
                type=FILE,
                help="text file, one name a line, in the order of the logits",
            ),
            click.option(
                "--answers",
                type=click.Choice(("softmax", "sigmoid")),
                help="softmax: an image is of one class; sigmoid: every logit is a finding of its "
                "own, and several may be present  [default: what a single logit, or the last step "
                "of the network, shows; else softmax]",
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
        "answers": arguments["answers"],
    }


def refuse_unused(options: Mapping[str, Any], reason: str, used: Sequence[str] = ()) -> None:
    """Raise a ConfigError if there are options of a teacher that nobody names.

    Args:
        options: As :func:`teacher_arguments` returns them.
        reason: What was found and expected, after the flag.
        used: Those that mean something all the same.
    """
    for name, value in options.items():
        if value is not None and name not in used:
            flag = {"architecture": "--arch"}.get(name, "--" + name.replace("_", "-"))
            raise ConfigError(f"{flag}: {reason}")


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
    """Return the lines of a text file with one class name a line, in the order of the logits.

    A byte order mark, spaces around a name and empty lines at the end are no part of them.

    Raises:
        InputFileError: If it cannot be read, has no names, or a line that is empty or there twice.
    """
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"--class-names {path}: {error}") from error
    names = tuple(line.strip() for line in lines)
    if not names:
        raise InputFileError(f"--class-names {path}: found no names, expected one a line")
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise InputFileError(
                f"--class-names {path}: found nothing on line {number}, expected a name on every "
                "line"
            )
        if name in first:
            raise InputFileError(
                f"--class-names {path}: found {name[:60]!r} on lines {first[name]} and {number}, "
                "expected every name once; tell the two classes apart"
            )
        first[name] = number
    return names
