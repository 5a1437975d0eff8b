"""Networks that somebody holds in Python, found by name for as long as a call lasts.

Whatever builds a network again from its architecture's name (a student's file, a sweep, an
opponent) then gets a copy of the one at hand, so that no code has to be imported.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from torch import nn

_NONE: Mapping[str, nn.Module] = MappingProxyType({})
# Of the thread that calls: another one may hold a network of the same class.
_HELD: ContextVar[Mapping[str, nn.Module]] = ContextVar("held", default=_NONE)


@contextmanager
def held(name: str, network: nn.Module) -> Iterator[None]:
    """Within the block, let the architecture ``name`` be that of ``network``.

    Args:
        name: As :func:`shared.architectures.find_candidate` is asked for it.
        network: Copied whenever one is built; it must not change within the block.
    """
    before = _HELD.set({**_HELD.get(), name: network})
    try:
        yield
    finally:
        _HELD.reset(before)


def held_network(name: str) -> nn.Module | None:
    """Return the network that is held under ``name``, or None."""
    return _HELD.get().get(name)
