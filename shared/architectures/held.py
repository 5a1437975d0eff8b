"""Networks that somebody holds in Python, found by name for as long as a call lasts.

Whatever builds a network again from its architecture's name (a student's file, a sweep, an
opponent) then gets a copy of the one at hand, so that no code has to be imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_HELD: dict[str, nn.Module] = {}


@contextmanager
def held(name: str, network: nn.Module) -> Iterator[None]:
    """Within the block, let the architecture ``name`` be that of ``network``.

    Args:
        name: As :func:`shared.architectures.find_candidate` is asked for it.
        network: Copied whenever one is built; it must not change within the block.
    """
    before = _HELD.get(name)
    _HELD[name] = network
    try:
        yield
    finally:
        del _HELD[name]
        if before is not None:
            _HELD[name] = before


def held_network(name: str) -> nn.Module | None:
    """Return the network that is held under ``name``, or None."""
    return _HELD.get(name)
