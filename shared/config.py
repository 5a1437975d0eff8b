"""Options as dataclass fields: default, range and help stand in one place.

A config is a frozen dataclass whose fields are made with :func:`option`. ``__post_init__`` calls
:func:`validate`; ``shared.cli_options.config_options`` turns the same fields into command-line
flags. No torch here: ``--help`` must answer at once.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigError

MOST = 2**63 - 1  # of a whole number
AUTO = "auto"  # on the command line what None is in a config


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What the command line needs to know of a field besides its name, type and default."""

    help: str
    min: float | None = None
    max: float | None = None
    above: float | None = None  # exclusive lower bound
    below: float | None = None  # exclusive upper bound
    choices: tuple[str, ...] | None = None
    metavar: str | None = None
    flag: str | None = None  # when the flag is not the field's name with hyphens
    auto: bool = False  # whether the flag takes the word for None, "choose", too


def option(default: Any, help: str, **facts: Any) -> Any:
    """Return a dataclass field with a default, its help text and its bounds (see Option)."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **facts)})


def flag_of(field: dataclasses.Field[Any]) -> str:
    """Return the command-line flag of a field: ``--batch-size`` for ``batch_size``."""
    chosen: Option = field.metadata["option"]
    return chosen.flag or "--" + field.name.replace("_", "-")


def options_of(config_class: Any) -> list[tuple[dataclasses.Field[Any], Option]]:
    """Return the fields made with :func:`option`, in order."""
    return [
        (field, field.metadata["option"])
        for field in dataclasses.fields(config_class)
        if "option" in field.metadata
    ]


def kind_of(field: dataclasses.Field[Any]) -> type:
    """Return the type of a field's values: ``int`` of ``int | None``."""
    kinds = [kind for kind in typing.get_args(field.type) if kind is not types.NoneType]
    return typing.cast("type", kinds[0] if kinds else field.type)


def validate(config: Any) -> None:
    """Check every option of ``config`` against its bounds. None passes: it means "choose".

    Raises:
        ConfigError: Naming the flag, the value found and the bound.
    """
    for field, chosen in options_of(config):
        value = getattr(config, field.name)
        if value is None or isinstance(value, bool):
            continue
        expected = _violated(chosen, value)
        if expected:
            shown = "nothing" if value == "" else value
            raise ConfigError(f"{flag_of(field)}: found {shown}, expected {expected}")


def _violated(chosen: Option, value: Any) -> str | None:
    if chosen.choices is not None:
        return None if value in chosen.choices else "one of " + ", ".join(chosen.choices)
    if value == "":  # of a variable that is not set; the path of nothing is the folder one is in
        return "a value, or no such option"
    if not isinstance(value, (int, float)):
        return None
    if isinstance(value, int) and abs(value) > MOST:  # no file that holds it could be read again
        return f"at most {MOST}"
    if not math.isfinite(value):
        return "a finite number"
    if chosen.min is not None and value < chosen.min:
        return f"at least {chosen.min:g}"
    if chosen.max is not None and value > chosen.max:
        return f"at most {chosen.max:g}"
    if chosen.above is not None and value <= chosen.above:
        return f"more than {chosen.above:g}"
    if chosen.below is not None and value >= chosen.below:
        return f"less than {chosen.below:g}"
    return None
