from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, write_dream_set

from shared.dreamset import DreamSet
from shared.feed import Feed, TensorFeed

CPU = torch.device("cpu")


@pytest.fixture
def dreams(tmp_path: Path) -> DreamSet:
    return DreamSet.open(write_dream_set(tmp_path, num_shards=3))


def keys(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


LIMITS = pytest.mark.parametrize("limit", [2**30, 0], ids=["resident", "streamed"])


@LIMITS
def test_an_epoch_visits_every_row_once(dreams: DreamSet, limit: int) -> None:
    rows = torch.tensor([23, 1, 2, 3, 5, 7, 8, 9, 11, 12, 17, 20])
    feed = Feed(dreams, rows, 4, CPU, seed=1, resident_limit_bytes=limit)
    expected = tiny_dreams().select(rows)
    names = dict(zip(keys(expected.images), expected.labels.tolist(), strict=True))

    assert feed.steps_per_epoch == 3
    for epoch in range(2):
        seen = []
        for step in range(3):
            images, labels = feed.batch(3 * epoch + step)
            assert images.shape == (4, 3, 8, 8)
            assert [names[key] for key in keys(images)] == labels.tolist()
            seen += keys(images)
        assert sorted(seen) == sorted(names)


@LIMITS
def test_a_batch_depends_on_seed_and_step_alone(dreams: DreamSet, limit: int) -> None:
    rows = torch.arange(24)
    feed = Feed(dreams, rows, 5, CPU, seed=1, resident_limit_bytes=limit)
    forward = [keys(feed.batch(step)[0]) for step in range(12)]
    fresh = Feed(dreams, rows, 5, CPU, seed=1, resident_limit_bytes=limit, cache_limit_bytes=1)

    assert [keys(fresh.batch(step)[0]) for step in reversed(range(12))] == forward[::-1]
    assert forward[0] != forward[4]  # another epoch, another order
    other = Feed(dreams, rows, 5, CPU, seed=2, resident_limit_bytes=limit)
    assert keys(other.batch(0)[0]) != forward[0]


@LIMITS
def test_few_rows_are_one_batch(dreams: DreamSet, limit: int) -> None:
    feed = Feed(dreams, torch.tensor([4, 20, 9]), 64, CPU, seed=0, resident_limit_bytes=limit)

    images, labels = feed.batch(7)

    assert feed.batch_size == 3
    assert feed.steps_per_epoch == 1
    assert sorted(labels.tolist()) == [0, 0, 1]
    assert sorted(keys(images)) == sorted(keys(tiny_dreams().images[[4, 20, 9]]))


def test_streaming_opens_a_shard_once_for_its_rows(
    dreams: DreamSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    original = DreamSet.images
    monkeypatch.setattr(
        DreamSet,
        "images",
        lambda self, rows, **_: (reads.append(len(rows)), original(self, rows))[1],
    )
    one_shard = 8 * 3 * 8 * 8
    feed = Feed(
        dreams,
        torch.arange(24),
        4,
        CPU,
        seed=0,
        resident_limit_bytes=0,
        cache_limit_bytes=one_shard,
    )

    for step in range(feed.steps_per_epoch):
        feed.batch(step)

    assert reads == [8, 8, 8]


def test_tensors_feed_the_same_way() -> None:
    source = tiny_dreams()
    feed = TensorFeed(source.images, source.labels, 8, CPU, seed=0)

    images, labels = feed.batch(4)

    names = dict(zip(keys(source.images), source.labels.tolist(), strict=True))
    assert feed.steps_per_epoch == 3
    assert [names[key] for key in keys(images)] == labels.tolist()
