import time
from pathlib import Path

import pytest

from dreamforge.config import SynthesisConfig
from dreamforge.plan import batch_sizes, plan_shards
from shared.errors import ConfigError
from shared.workers import Worker


@pytest.mark.parametrize("num_images", [2, 255, 256, 257, 1000, 5000])
@pytest.mark.parametrize("shard_size", [None, 300, 10_000])
def test_shards_cover_the_set_once_with_batches_of_nearly_equal_size(num_images, shard_size):
    config = SynthesisConfig(num_images=num_images, batch_size=64, shard_size=shard_size)
    shards = plan_shards(config.resolve((3, 32, 32)), Path("dreams.h5"))
    batches = [batch for shard in shards for batch in shard.batches]
    sizes = [batch.stop - batch.start for batch in batches]

    assert [batch.start for batch in batches] == [0, *(batch.stop for batch in batches[:-1])]
    assert batches[-1].stop == num_images
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 64
    assert sum(shard.num_images for shard in shards) == num_images
    assert [batch.number for batch in batches] == list(range(len(batches)))


def test_workers_share_the_shards_without_overlap():
    count = 3
    owners = [[w for w in range(count) if shard % count == w] for shard in range(10)]

    assert all(len(owner) == 1 for owner in owners)
    assert Worker.parse("2/3") == Worker(index=2, count=3)


@pytest.mark.parametrize("text", ["", "/16", "3", "16/16", "-1/4", "1/0", "a/b", "1/2/3", "٣/٤"])
def test_a_malformed_share_fails_loudly(text):
    with pytest.raises(ConfigError, match="--worker"):
        Worker.parse(text)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "sizes"),
    [(1024, 256, (256,)), (1000, 256, (250,)), (20, 8, (6, 7)), (5, 8, (5,)), (17, 8, (5, 6))],
)
def test_batches_have_at_most_two_sizes(num_images, batch_size, sizes):
    config = SynthesisConfig(num_images=num_images, batch_size=batch_size).resolve((3, 8, 8))

    assert batch_sizes(config) == sizes
    made = {b.stop - b.start for s in plan_shards(config, Path("d.h5")) for b in s.batches}
    assert made == set(sizes)


@pytest.mark.parametrize("num_images", [10**10, 2**62])
@pytest.mark.parametrize("shard_size", [None, 2, 2**40])
def test_a_mistyped_number_is_refused_before_anything_is_planned(
    num_images: int, shard_size: int | None
):
    config = SynthesisConfig(num_images=num_images, batch_size=64, shard_size=shard_size)
    started = time.monotonic()

    with pytest.raises(ConfigError, match=r"--n \d+: [\d,]+ batches, expected at most 1,048,576"):
        plan_shards(config.resolve((3, 8, 8)), Path("d.h5"))
    assert time.monotonic() - started < 0.5


def test_too_many_shards_are_refused_likewise():
    config = SynthesisConfig(num_images=10**6, batch_size=2, shard_size=2).resolve((3, 8, 8))

    with pytest.raises(ConfigError, match="500000 shards: expected 1 to 99999"):
        plan_shards(config, Path("d.h5"))
