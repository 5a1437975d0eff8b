"""Whether an interrupted command has begun what goes on without ``--overwrite``.

Before that, what was there is there yet, and the command without the option would be refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class BegunInterrupt(KeyboardInterrupt):
    """An interruption after which the command goes on.

    Without ``--overwrite``, if it had that, where what was there has gone.
    """


@contextmanager
def begun() -> Iterator[None]:
    """Make every interruption of the block one of work that has begun."""
    try:
        yield
    except BegunInterrupt:
        raise
    except KeyboardInterrupt as interrupt:
        raise BegunInterrupt from interrupt
