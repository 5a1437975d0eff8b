"""Interruptions that a command hears: whenever they come, and SIGTERM as well as Ctrl-C."""

import functools
import importlib
import signal
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn


@contextmanager
def handling(signum: int, handler: "signal._HANDLER") -> Iterator[None]:
    """Handle a signal so within the block; where Python lets nobody handle any, do nothing."""
    try:
        before = signal.signal(signum, handler)
    except ValueError:  # not the main thread: a program that calls us owns its signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signum, before)


def terminated_as_interrupted() -> AbstractContextManager[None]:
    """Treat SIGTERM (a scheduler's preemption) like Ctrl-C: clean up, say how to resume."""
    return handling(signal.SIGTERM, interrupt)


def interrupt(signum: int, frame: types.FrameType | None) -> NoReturn:
    """Handle a signal as Ctrl-C is handled."""
    raise KeyboardInterrupt


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
