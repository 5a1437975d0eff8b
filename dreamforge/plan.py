"""Which dreams belong to which batch, which batches to which shard, which shards to which worker.

All of it follows from the config, so that any number of workers, in any order, interrupted or
not, makes the same files.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from dreamforge.config import SynthesisConfig
from shared.errors import ConfigError
from shared.manifest import shard_names


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Dreams ``start`` to ``stop`` of the set."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """A file of whole batches."""

    number: int
    path: Path
    batches: tuple[BatchPlan, ...]

    @property
    def num_images(self) -> int:
        """How many dreams the shard will hold."""
        return self.batches[-1].stop - self.batches[0].start


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One of ``count`` processes that share a set; it takes every ``count``-th shard."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"--worker: found {self.index}/{self.count}, expected 0/N to N-1/N")

    def makes(self, shard: int) -> bool:
        """Return whether a shard is among those of this worker."""
        return shard % self.count == self.index

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


def plan_shards(config: SynthesisConfig, out: Path) -> tuple[ShardPlan, ...]:
    """Return the shards of a resolved config.

    Batch sizes differ by at most one, so that no batch is left too small for its statistics to
    mean anything.
    """
    batch_size, shard_size = config.batch_size or 1, config.shard_size or 1
    num_batches = -(-config.num_images // batch_size)
    edges = [config.num_images * number // num_batches for number in range(num_batches + 1)]
    batches = [
        BatchPlan(number=number, start=edges[number], stop=edges[number + 1])
        for number in range(num_batches)
    ]
    per_shard = max(1, shard_size // batch_size)
    groups = [batches[first : first + per_shard] for first in range(0, num_batches, per_shard)]
    names = shard_names(out, len(groups))
    return tuple(
        ShardPlan(number=number, path=out.with_name(name), batches=tuple(group))
        for number, (name, group) in enumerate(zip(names, groups, strict=True))
    )
