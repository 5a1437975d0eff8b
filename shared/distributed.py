"""Processes that do one piece of work together: the few collectives that takes, and one voice.

Unlike the workers of :mod:`shared.workers`, who share nothing, these wait for each other at every
step. Tensors go through NCCL where each process has a GPU of its own and through gloo elsewhere;
flags and objects always go through gloo, so that asking for them never waits for a GPU.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

# Imported before there is a group: its functions keep the one that they find as their default, past
# its end, and gloo's threads then meet the end of the interpreter (SIGABRT, now and then).
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from shared.device import collective_backend
from shared.errors import ConfigError, DreamforgeError, SpokenForError
from shared.workers import Worker

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

# The others wait while the first one judges, on all of ImageNet if need be. That a process is dead
# shows at once, without this limit: its connections close.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes that work together, as one of them sees it; by default it is alone.

    Every method is called by all processes, in the same order; alone, none costs anything. All
    raise a DreamforgeError when another process is gone.

    Attributes:
        index: Of this process.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, reports and prints."""
        return self.index == 0

    def part(self, batch: Tensor) -> Tensor:
        """Return this process's rows of a batch: every ``count``-th.

        Args:
            batch: ``(N, ...)``; the parts' sizes differ by at most one.
        """
        return batch[self.index :: self.count] if self.count > 1 else batch

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message.

        Args:
            tensors: Float, any shapes and layouts, the same everywhere, on one device. The sums
                have the same bits in every process.
        """
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _peers():
            dist.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))

    def any(self, flag: bool) -> bool:  # noqa: FBT001  one value, as of the built-in
        """Return whether ``flag`` is set in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor([int(flag)])
        with _peers():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)

    def share(self, value: Any) -> Any:
        """Return what the first process passed; the tensors in its dicts come on the CPU."""
        if self.count == 1:
            return value
        box = [_on_cpu(value) if self.leads else None]
        with _peers():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def agree(self, digest: int) -> bool:
        """Return whether a number of up to 63 bits is the same in all processes."""
        if self.count == 1:
            return True
        extremes = torch.tensor([digest, -digest])
        with _peers():
            dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        return extremes.tolist() == [digest, -digest]

    def wait(self) -> None:
        """Return when all processes have come this far."""
        self.any(flag=False)


ALONE = Group()


def digest_of(pieces: Iterable[bytes]) -> int:
    """Return 63 bits, for :meth:`Group.agree`, that differ, but by chance, where any piece does."""
    state = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        state.update(piece)
    return int.from_bytes(state.digest(), "little") >> 1


@contextmanager
def one_voice() -> Iterator["Store"]:
    """Run the block such that of the processes that fail in it only the first says so.

    The others, most of which fail because that one is gone, raise a SpokenForError. Connections
    that the block made are closed.

    Raises:
        ConfigError: If the launcher's environment does not say where to meet.
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    except ValueError as error:
        raise ConfigError(
            f"RANK and WORLD_SIZE are set, but torchrun's other variables are not ({error}); "
            "start with torchrun, or unset them"
        ) from error
    try:
        yield store
    except BaseException as error:
        # First the word, then the connections: their end wakes the others, who would take it.
        says_why = isinstance(error, (DreamforgeError, OSError, RuntimeError, KeyboardInterrupt))
        is_spoken_for = says_why and _has_spoken(store)
        abandon()
        if is_spoken_for:
            raise SpokenForError(error) from error
        raise


def join(store: "Store", worker: Worker, device: torch.device) -> Group:
    """Return the group of all processes, once all have called this.

    Args:
        store: Where they meet, from :func:`one_voice`.
        worker: Which of them this one is.
        device: Where its tensors are.
    """
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", worker.count))
    with _peers():
        dist.init_process_group(
            f"cpu:gloo,cuda:{collective_backend(device, num_here)}",
            store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
            rank=worker.index,
            world_size=worker.count,
            timeout=PATIENCE,
        )
    return Group(index=worker.index, count=worker.count)


def leave(group: Group) -> None:
    """Part in peace: when all have come this far, close the connections."""
    if group.count > 1:
        group.wait()
        dist.destroy_process_group()


def abandon() -> None:
    """Close this process's connections at once: the others' next message fails.

    Its threads would otherwise meet the end of the interpreter, and SIGABRT take the place of the
    exit code. NCCL's end waits for the other processes, so what goes through NCCL stays open.
    """
    if dist.is_initialized() and "nccl" not in dist.get_backend_config():
        dist.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    """Tell the failure of a collective in words: somebody else is gone."""
    try:
        yield
    except RuntimeError as error:
        raise DreamforgeError(
            "another process of this run ended, so this one cannot go on; "
            "the same command goes on from the last checkpoint (without --overwrite, which begins "
            "anew)"
        ) from error


def _has_spoken(store: "Store") -> bool:
    try:
        return store.add("failures", 1) > 1
    except RuntimeError:  # who kept the store is gone, too
        return False


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _on_cpu(part) for name, part in value.items()}
    return value
