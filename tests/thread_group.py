"""Threads that stand in for the processes of a group: the same code, without starting anything."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from shared.distributed import Group

Result = TypeVar("Result")
SECONDS = 30.0  # after which a thread that waits for another one fails


class Meeting:
    """Where the threads put what the others are to see."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=SECONDS)
        self._brought: list[Any] = [None] * count

    def exchange(self, index: int, value: Any) -> list[Any]:
        """Return what all have brought, in the order of the threads."""
        self._brought[index] = value
        self._barrier.wait()
        brought = list(self._brought)
        self._barrier.wait()
        return brought

    def abort(self) -> None:
        self._barrier.abort()


class ThreadGroup(Group):
    """A group whose messages go through a meeting."""

    meeting: Meeting

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        brought = self.meeting.exchange(self.index, [tensor.clone() for tensor in tensors])
        with torch.no_grad():
            for tensor, *parts in zip(tensors, *brought, strict=True):
                tensor.copy_(sum(parts))  # type: ignore[arg-type]

    def any(self, flag: bool) -> bool:
        return any(self.meeting.exchange(self.index, flag))

    def share(self, value: Any) -> Any:
        return self.meeting.exchange(self.index, value)[0]

    def agree(self, digest: int) -> bool:
        return len(set(self.meeting.exchange(self.index, digest))) == 1


def together(count: int, work: Callable[[Group], Result]) -> list[Result]:
    """Return what ``work`` returns in each thread of a group; raise what the first failed with."""
    meeting = Meeting(count)

    def run(index: int) -> Result:
        group = ThreadGroup(index=index, count=count)
        object.__setattr__(group, "meeting", meeting)
        try:
            return work(group)
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(run, index) for index in range(count)]
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
