"""Signals that wait for the end of a step, so that what is saved is whole."""

import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_deferred(*, patiently: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM has come since.

    A second signal interrupts at once, with what handled it before, unless ``patiently`` is set: a
    launcher repeats a signal that its processes have got already, and kills them before long.
    Outside the main thread, where Python lets nobody handle signals, the function always says no.
    """
    received = False

    def remember(signum: int, frame: types.FrameType | None) -> None:
        nonlocal received
        received = True
        if not patiently:
            restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous: dict[int, signal._HANDLER] = {}
    try:
        for number in SIGNALS:
            previous[number] = signal.signal(number, remember)
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: received
    finally:
        restore()
