"""Interruptions that a command hears: whenever they come, and SIGTERM as well as Ctrl-C."""

import functools
import importlib
import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

_come: list[int] = []  # signals that have interrupted something


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


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM (a scheduler's preemption) like Ctrl-C, and let neither be lost.

    Python drops what is raised while an object is finalised, with a remark: work would go on to its
    end. :func:`raise_lost` raises it again.
    """
    _come.clear()
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # or is in a program
    on_ctrl_c = handling(signal.SIGINT, interrupt) if is_heard else nullcontext()
    with handling(signal.SIGTERM, interrupt), on_ctrl_c:
        yield


def interrupt(signum: int, frame: types.FrameType | None) -> NoReturn:
    """Handle a signal as Ctrl-C is handled."""
    _come.append(signum)
    raise KeyboardInterrupt


def raise_lost() -> None:
    """Raise KeyboardInterrupt where a signal has come in :func:`interruptible`, and work goes on.

    Called wherever work reports how far it is.
    """
    if _come:
        _come.clear()
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
