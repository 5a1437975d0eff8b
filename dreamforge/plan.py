"""Which dreams belong to which batch, and which batches to which shard.

All of it follows from the config, so that any number of workers, in any order, interrupted or
not, makes the same files.
"""

from dataclasses import dataclass
from pathlib import Path

from dreamforge.config import SynthesisConfig
from shared.errors import ConfigError
from shared.manifest import shard_names

MAX_BATCHES = 2**20  # a plan has a line for each: 100 MB, and a quarter of a billion dreams


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


def plan_shards(config: SynthesisConfig, out: Path) -> tuple[ShardPlan, ...]:
    """Return the shards of a resolved config.

    Batch sizes differ by at most one, so that no batch is left too small for its statistics to
    mean anything.

    Raises:
        ConfigError: If there are too many batches or shards, or ``out`` has an impossible name.
    """
    batch_size, shard_size = config.batch_size or 1, config.shard_size or 1
    num_batches = -(-config.num_images // batch_size)
    per_shard = max(1, shard_size // batch_size)
    _refuse_endless(config.num_images, num_batches)
    names = shard_names(out, -(-num_batches // per_shard))
    edges = [config.num_images * number // num_batches for number in range(num_batches + 1)]
    batches = [
        BatchPlan(number=number, start=edges[number], stop=edges[number + 1])
        for number in range(num_batches)
    ]
    groups = [batches[first : first + per_shard] for first in range(0, num_batches, per_shard)]
    return tuple(
        ShardPlan(number=number, path=out.with_name(name), batches=tuple(group))
        for number, (name, group) in enumerate(zip(names, groups, strict=True))
    )


def _refuse_endless(num_images: int, num_batches: int) -> None:
    if num_batches > MAX_BATCHES:
        raise ConfigError(
            f"--n {num_images}: {num_batches:,} batches, expected at most {MAX_BATCHES:,}; make "
            "fewer dreams, or several sets"
        )


def batch_sizes(config: SynthesisConfig) -> tuple[int, ...]:
    """Return the sizes that the batches of a resolved config have: one, or two neighbours."""
    num_batches = -(-config.num_images // (config.batch_size or 1))
    size, rest = divmod(config.num_images, num_batches)
    return (size, size + 1) if rest else (size,)
