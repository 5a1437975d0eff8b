"""The levels of a sweep, as they are asked for: sparsities, or fractions of channels."""

from typing import Any

from recover.settings import DEFAULT_LEVELS
from shared.errors import ConfigError


def asked_levels(sparsities: str | None, channels: str | None) -> list[dict[str, Any]]:
    """Return what each level sets in the config, the least pruned first.

    Raises:
        ConfigError: If both kinds are given, or a list makes no sense.
    """
    if channels is None:
        found = parse_sparsities(DEFAULT_LEVELS if sparsities is None else sparsities)
        return [{"sparsity": sparsity} for sparsity in found]
    if sparsities is not None:
        raise ConfigError(
            f"--channels {channels}: found --sparsity {sparsities}, too; expected levels of one "
            "kind, such as two sweeps and one report of both"
        )
    return [{"channels": fraction, "sparsity": 0.0} for fraction in parse_channels(channels)]


def parse_sparsities(text: str) -> tuple[float, ...]:
    """Return the numbers of ``0.5,0.8,0.9``, ascending.

    Raises:
        ConfigError: If it is anything else, has one of them twice, or one outside [0, 1).
    """
    found = _numbers("--sparsity", text)
    if not found or not all(0 <= sparsity < 1 for sparsity in found):
        raise ConfigError(
            f"--sparsity: found {text!r}, expected numbers from 0 to below 1, such as 0.5,0.8,0.9"
        )
    return found


def parse_channels(text: str) -> tuple[float, ...]:
    """Return the fractions of ``0.75,0.5,0.25``, descending: the least pruned first, as above.

    Raises:
        ConfigError: If it is anything else, has one of them twice, or one outside (0, 1].
    """
    found = _numbers("--channels", text)
    if not found or not all(0 < fraction <= 1 for fraction in found):
        raise ConfigError(
            f"--channels: found {text!r}, expected fractions above 0, at most 1, such as 0.75,0.5"
        )
    return found[::-1]


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    """Return the numbers in a list, ascending; nothing where it is no list of numbers."""
    try:
        found = sorted(float(part) for part in text.split(","))
    except ValueError:
        return ()
    if len({f"{number:g}" for number in found}) != len(found):
        raise ConfigError(f"{flag}: found {text!r}, expected every level once")
    return tuple(found)
