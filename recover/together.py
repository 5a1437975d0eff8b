"""Which options do not go together where less is kept than any weights. No torch here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError

if TYPE_CHECKING:
    from recover.config import RecoverConfig


def refuse_beside_channels(config: "RecoverConfig") -> None:
    """Raise ConfigError where ``--channels`` has no meaning beside another option, or lacks."""
    if config.channels is None:
        if config.round_to > 1:
            raise ConfigError(
                f"--round-to {config.round_to}: found no --channels, expected the fraction of them "
                "that is kept"
            )
        return
    asked = f"--channels {config.channels:g}"
    expected = {"sparsity": 0.0, "student": None, "reconstruct": "none"}
    _refuse_others(config, asked, expected)
    if config.allocation not in (None, "global", "uniform"):
        raise ConfigError(
            f"{asked}: found --allocation {config.allocation}, expected global or uniform"
        )
    if config.repair == "matched":
        raise ConfigError(
            f"{asked}: found --repair matched, which compares channel by channel, expected "
            "batch-norm or none"
        )


def refuse_beside_pattern(config: "RecoverConfig") -> None:
    """Raise ConfigError where ``--pattern`` has no meaning beside another option."""
    if config.pattern is None:
        return
    asked = f"--pattern {config.pattern}"
    _refuse_others(config, asked, {"channels": None, "student": None, "warm_start": None})
    if config.allocation not in (None, "global"):
        raise ConfigError(f"{asked}: found --allocation {config.allocation}, expected global")


def refuse_start(config: "RecoverConfig") -> None:
    """Raise ConfigError where a run cannot start from the student of another level."""
    start = config.warm_start
    if start is None:
        return
    if config.channels is None:
        if not 0 <= start <= config.sparsity:
            raise ConfigError(
                f"--warm-start: found a student of sparsity {start:g}, expected at most the "
                f"{config.sparsity:g} that it is pruned to"
            )
        return
    if not config.channels <= start <= 1:
        raise ConfigError(
            f"--warm-start: found a student with {start:g} of the channels, expected at least the "
            f"{config.channels:g} that it is cut to"
        )
    if config.schedule == "one-shot" or config.steps == 0:
        raise ConfigError(
            "--warm-start: found channels that are cut in one shot, expected --schedule gradual "
            "with --steps"
        )


def _refuse_others(config: "RecoverConfig", asked: str, expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        found = getattr(config, name)
        if found != value:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{asked}: found {flag} {found}, expected one of the two")
