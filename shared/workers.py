"""Which of several workers this process is: torchrun, an explicit share, or alone.

Workers share nothing: each makes whole pieces (shards of a dream set, levels of a sweep), and
whoever finds all of them there finishes the job. There are no collectives and no locks, so a dead
worker costs its own pieces only.
"""

import os
import re
from dataclasses import dataclass

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One of ``count`` processes that share a job; it takes every ``count``-th piece."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"--worker: found {self.index}/{self.count}, expected 0/N to N-1/N")

    @property
    def leads(self) -> bool:
        """Whether it is the first of them."""
        return self.index == 0

    def makes(self, piece: int) -> bool:
        """Return whether a piece, by its number, is among those of this worker."""
        return piece % self.count == self.index

    def part(self, index: int, count: int) -> "Worker":
        """Return one of ``count`` equal parts of this share.

        Together the parts make the pieces of the share and no others, whatever ``count`` is: so
        machines that share a job may have different numbers of devices.
        """
        return Worker(index=self.index + self.count * index, count=self.count * count)

    @classmethod
    def parse(cls, text: str) -> "Worker":
        """Return worker ``3/16``.

        Raises:
            ConfigError: If the text is anything else. An empty task id (a SLURM script without
                ``--array``) must not quietly make every task do the first sixteenth.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
        if match is None:
            raise ConfigError(f"--worker: found {text!r}, expected INDEX/COUNT such as 3/16")
        return cls(index=int(match[1]), count=int(match[2]))


def find_worker(text: str | None) -> tuple[Worker, int | None]:
    """Return this process's share, and its rank on this machine if a launcher gave one.

    Args:
        text: ``--worker``'s value. SLURM arrays pass
            ``--worker ${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}``.

    Raises:
        ConfigError: If the share is malformed, or torchrun's variables are.
    """
    if text is not None:
        return Worker.parse(text), None
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return Worker(), None
    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise ConfigError(
            "RANK, WORLD_SIZE, LOCAL_RANK: expected integers from torchrun"
        ) from error
    return Worker(index=rank, count=count), local_rank


def speaks_for_all(text: str | None = None) -> bool:
    """Return whether this process makes the remarks that all would: a launcher's share a terminal.

    Args:
        text: ``--worker``'s value: such a worker has a terminal of its own.
    """
    if text is not None or "WORLD_SIZE" not in os.environ:
        return True
    return os.environ.get("RANK", "0") == "0"
