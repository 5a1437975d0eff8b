"""Settings of the whole process, which calls in several threads want alike for a while."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ProcessWide(Generic[Value]):
    """A setting of PyTorch that all threads share, and the value that our blocks need it to have.

    A block that restored what it found would end the setting for the others that still run, and
    the last could restore what the first had set.
    """

    def __init__(
        self, read: Callable[[], Value], write: Callable[[Value], None], needed: Value
    ) -> None:
        self._read, self._write, self._needed = read, write, needed
        self._before = needed
        self._num_blocks = 0  # that run now
        self._lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let it have the value within the block, and its own again after the last such block."""
        with self._lock:
            found = self._read()
            # Besides the first block: a thread that has set it since, before its own.
            if self._num_blocks == 0 or found != self._needed:
                self._before = found
                self._write(self._needed)
            self._num_blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_blocks -= 1
                if self._num_blocks == 0:
                    self._write(self._before)
