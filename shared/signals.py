"""Interruptions that a command hears: whenever they come, and SIGTERM as well as Ctrl-C."""

import functools
import importlib
import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM (a scheduler's preemption) like Ctrl-C: clean up, say how to resume."""

    def interrupt(signum: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: a program that calls us owns its signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def numpy_first(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``callback``, before which NumPy is imported.

    PyTorch imports it in its own initialisation, and takes an interruption there for a NumPy that
    cannot be had: the command would run on to its end.
    """

    @functools.wraps(callback)
    def call(*arguments: Any, **options: Any) -> Any:
        importlib.import_module("numpy")
        return callback(*arguments, **options)

    return call
