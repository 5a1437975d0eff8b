"""What ``--channels`` is about: the channels of a teacher, all of them or those that are left."""

from collections.abc import Mapping
from typing import Any

from recover.allocation import whole_layers
from recover.config import RecoverConfig
from recover.slim import Slimming
from shared.teacher import Teacher


def slimming_of(
    origin: Teacher, config: RecoverConfig, left: Mapping[str, Any] | None = None
) -> Slimming | None:
    """Return what ``config.channels`` is about; None without it.

    Args:
        origin: With all of its channels.
        config: Says whether, and which are to stay.
        left: A :meth:`Slimming.state` of those that are left; None: all of them.

    Raises:
        IncompatibleError: If no channel of the network can be removed.
        ConfigError: As :func:`recover.allocation.whole_layers`.
    """
    if config.channels is None:
        return None
    whole = whole_layers(origin.network, config)
    slimming = Slimming(origin.network, origin.spec.image_shape, whole)
    if left is not None:
        slimming.restore(left)
    return slimming
