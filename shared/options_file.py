"""Options from a TOML file: a table per command, keys named as the flags are."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import ConfigError


def read_options(path: Path, known: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the options in ``path`` by command and by parameter, values as text.

    Args:
        path: TOML, such as ``[synth]`` with ``batch-size = 64`` below; hyphen or underscore.
        known: For each command, the parameter behind every key.

    Raises:
        ConfigError: If the file cannot be read, or names what does not exist: a misspelt option
            must not quietly do nothing.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    found: dict[str, dict[str, str]] = {}
    for command, options in tables.items():
        if command not in known or not isinstance(options, dict):
            expected = ", ".join(f"[{name}]" for name in known)
            raise ConfigError(f"--config {path}: found {command!r}, expected tables {expected}")
        found[command] = {}
        for key, value in options.items():
            parameter = known[command].get(key.replace("-", "_"))
            if parameter is None:
                raise ConfigError(
                    f"--config {path}: [{command}] has no option {key!r}; see {command} --help"
                )
            found[command][parameter] = _as_written(value, f"--config {path}: [{command}] {key}")
    return found


def _as_written(value: Any, where: str) -> str:
    """Return what one would write on the command line: ``[0.5, 0.5]`` is ``0.5,0.5`` there."""
    if isinstance(value, list):
        return ",".join(_as_written(item, where) for item in value)
    if isinstance(value, dict):
        raise ConfigError(f"{where}: found a table, expected a value")
    return str(value)
