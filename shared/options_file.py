"""Options from a TOML file: a table per command, keys named as the flags are."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a key in the file stands for.

    Attributes:
        parameter: Name of the command's parameter.
        is_flag: Whether it is true or false, and nothing else.
        takes_list: Whether it may be several values, which flags have with commas.
        is_repeated: Whether it may be several values, each with a flag of its own.
    """

    parameter: str
    is_flag: bool
    takes_list: bool
    is_repeated: bool


def read_options(
    path: Path, known: Mapping[str, Mapping[str, Setting]]
) -> dict[str, dict[str, str | list[str]]]:
    """Return the options in ``path`` by command and by parameter, values as text.

    Options that may be repeated have a list of texts.

    Args:
        path: TOML, such as ``[synth]`` with ``batch-size = 64`` below; hyphen or underscore.
        known: For each command, what every key stands for.

    Raises:
        ConfigError: If the file cannot be read, names what does not exist (a misspelt option must
            not quietly do nothing), or holds values of another type.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: not found, expected a TOML file") from error
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--config {path}: cannot be read ({reason})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: found no UTF-8 text, expected a TOML file") from error
    except (ValueError, RecursionError) as error:  # tomllib's own, and of huge numbers or depths
        raise ConfigError(f"--config {path}: {error}") from error
    found: dict[str, dict[str, str | list[str]]] = {}
    for command, options in tables.items():
        if command not in known or not isinstance(options, dict):
            expected = ", ".join(f"[{name}]" for name in known)
            raise ConfigError(f"--config {path}: found {command!r}, expected tables {expected}")
        found[command] = {}
        for key, value in options.items():
            setting = known[command].get(key.replace("-", "_"))
            if setting is None:
                raise ConfigError(
                    f"--config {path}: [{command}] has no option {key!r}; see {command} --help"
                )
            where = f"--config {path}: [{command}] {key}"
            if setting.parameter in found[command]:
                raise ConfigError(f"{where}: found under another name, too; expected one of them")
            read = _each_as_written if setting.is_repeated else _as_written
            found[command][setting.parameter] = read(value, setting, where)
    return found


def _each_as_written(value: Any, setting: Setting, where: str) -> list[str]:
    """Return what one would write behind each of the flags; a single value is a list of one."""
    single = replace(setting, is_repeated=False)
    values = value if isinstance(value, list) else [value]
    return [_as_written(item, single, where) for item in values]


def _as_written(value: Any, setting: Setting, where: str) -> str:
    """Return what one would write on the command line: ``[0.5, 0.5]`` is ``0.5,0.5`` there."""
    if isinstance(value, bool) and not setting.is_flag:
        raise ConfigError(f"{where}: found {str(value).lower()}, expected a value: it is no flag")
    if isinstance(value, list) and not setting.takes_list:
        raise ConfigError(f"{where}: found a list, expected a single value")
    if isinstance(value, list):
        return ",".join(_as_written(item, setting, where) for item in value)
    if isinstance(value, dict):
        raise ConfigError(f"{where}: found a table, expected a value")
    if setting.is_flag and value == "":  # which click takes for no
        raise ConfigError(f"{where}: found nothing, expected true or false")
    return str(value)
