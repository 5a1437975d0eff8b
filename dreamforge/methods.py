"""The ways of making dreams, and which options mean something to only some of them.

No torch here: the options are read before anything is computed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from shared.config import flag_of
from shared.errors import ConfigError

DEFAULT_METHOD = "inversion"
METHODS = (DEFAULT_METHOD, "adaptive", "generator")
PIXEL_METHODS = (DEFAULT_METHOD, "adaptive")  # what is optimised is the images themselves

# Options of some methods only, by field. What stands in neither place is common to all.
ONLY_WITH: Mapping[str, tuple[str, ...]] = {
    "lr": PIXEL_METHODS,
    "lr_schedule": PIXEL_METHODS,
    "warmup": PIXEL_METHODS,
    "space": PIXEL_METHODS,
    "init": PIXEL_METHODS,
    "jitter_kind": PIXEL_METHODS,
    "crop_area": PIXEL_METHODS,
    "compile": PIXEL_METHODS,
    "targets": PIXEL_METHODS,
    "target_smoothing": PIXEL_METHODS,
    "diversity_weight": PIXEL_METHODS,
    "competition_weight": ("adaptive",),
    "opponent_sparsity": ("adaptive",),
    "opponent_temperature": ("adaptive",),
    "generator_lr": ("generator",),
    "latent_lr": ("generator",),
    "generator_width": ("generator",),
    "latent_size": ("generator",),
    "mode_seeking_weight": ("generator",),
    "meta_batches": ("generator",),
    "outer_rate": ("generator",),
    "stats_momentum": ("generator",),
}

# Defaults of options that came after the first sets. They are not recorded: sets that were begun
# before say nothing of these options, and are to be continued.
UNSAID: Mapping[str, Any] = {
    "method": DEFAULT_METHOD,
    "space": "pixels",
    "jitter_kind": "roll",
    "crop_area": None,
    "targets": "hard",
    "target_smoothing": None,
    "diversity_weight": 0.0,
    "compile": "off",
}


def refuse_idle_options(config: Any) -> None:
    """Check that no option was changed that the config's method does not look at.

    An option given as its default goes unnoticed: it promises nothing.

    Raises:
        ConfigError: Naming the flag, its value, the method and those that the flag is for.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, methods in ONLY_WITH.items():
        value = getattr(config, name)
        if config.method not in methods and value != fields[name].default:
            raise ConfigError(
                f"{flag_of(fields[name])}: found {value} with --method {config.method}, which has "
                f"no use for it; leave it out, or use --method {' or '.join(methods)}"
            )


def without_idle_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's JSON record without what its method does not look at, or goes unsaid."""
    method = record["method"]
    return {
        name: value
        for name, value in record.items()
        if method in ONLY_WITH.get(name, METHODS) and not (name in UNSAID and value == UNSAID[name])
    }
