import multiprocessing
import pickle
import threading
from pathlib import Path

import pytest
import torch
from dreamset_fixtures import IMAGE_SHAPE, tiny_dreams, write_dream_set, write_packed_set

from shared import kept
from shared.dreamset import DreamSet
from shared.errors import DreamSetError
from shared.feed import Feed
from shared.seeding import generator

NUM_BYTES = 24 * 3 * 8 * 8
EXPECTED = tiny_dreams().images


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_dream_set(tmp_path, num_shards=3)


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    return write_dream_set(tmp_path, num_shards=3, compression=True)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write_packed_set(tmp_path)


def cut_short(index: Path) -> None:
    """Leave 100 bytes of every file that holds images, in place: what a mapping dies of."""
    for path in [index] if index.name == "packed.h5" else index.parent.glob("dreams-*.h5"):
        with path.open("r+b") as stream:
            stream.truncate(100)


def selections() -> list[torch.Tensor]:
    draws = generator(0, "selections")
    shuffled, repeated = torch.randperm(24, generator=draws), torch.tensor([23, 0, 8, 8, 15, 16, 1])
    return [
        shuffled,
        repeated,
        torch.tensor([9]),
        torch.tensor([15, 8, 9, 9]),
        *(torch.randint(0, 24, (16,), generator=draws) for _ in range(12)),
    ]


@pytest.mark.parametrize("kind", ["index", "compressed", "packed"])
def test_every_visit_gives_the_same_images(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    dreams, files = DreamSet.open(path), DreamSet.open(path, keep_limit_bytes=0)

    for _ in range(3):  # from files, while shards are being kept, and from memory
        for rows in selections():
            assert torch.equal(dreams.images(rows), EXPECTED[rows])
            assert torch.equal(files.images(rows), EXPECTED[rows])
    cut_short(path)
    for rows in selections():
        assert torch.equal(dreams.images(rows), EXPECTED[rows])
        with pytest.raises(DreamSetError):
            files.images(rows)


def test_one_pass_in_any_order_keeps_nothing(index: Path) -> None:
    dreams = DreamSet.open(index)
    for rows in torch.randperm(24, generator=generator(0, "pass")).split(5):
        dreams.images(rows)

    cut_short(index)
    with pytest.raises(DreamSetError, match="too early"):
        dreams.images(torch.tensor([0, 10, 20]))


def test_only_the_shard_that_is_asked_again_is_kept(index: Path) -> None:
    dreams = DreamSet.open(index)
    dreams.images(torch.arange(24))
    dreams.images(torch.tensor([10]))
    cut_short(index)

    assert torch.equal(dreams.images(torch.tensor([15, 8])), EXPECTED[[15, 8]])
    for row in (0, 23):
        with pytest.raises(DreamSetError):
            dreams.images(torch.tensor([row]))


def test_reading_in_order_and_the_feed_keep_nothing(index: Path) -> None:
    dreams = DreamSet.open(index)
    for _ in range(3):
        list(dreams.shards())
        dreams.select(torch.arange(24))
        dreams.images(torch.arange(24), keep=False)
        for limit in (NUM_BYTES, 0):
            cpu = torch.device("cpu")
            Feed(dreams, torch.arange(24), 8, cpu, 0, resident_limit_bytes=limit).batch(0)

    cut_short(index)
    with pytest.raises(DreamSetError):
        dreams.images(torch.tensor([0]))


@pytest.mark.parametrize(("limit", "keeps"), [(NUM_BYTES, True), (NUM_BYTES - 1, False)])
def test_a_set_above_the_limit_is_never_kept(index: Path, limit: int, keeps: bool) -> None:
    dreams = DreamSet.open(index, keep_limit_bytes=limit)

    assert dreams.keep_images() == keeps
    for _ in range(3):
        assert torch.equal(dreams.images(torch.arange(24)), EXPECTED)
    assert (dreams._kept.whole is not None) == keeps


@pytest.mark.parametrize(("free", "keeps"), [(2 * NUM_BYTES, True), (2 * NUM_BYTES - 1, False)])
def test_at_most_half_of_the_free_memory_is_taken(
    index: Path, monkeypatch: pytest.MonkeyPatch, free: int, keeps: bool
) -> None:
    monkeypatch.setattr(kept, "num_bytes_free", lambda device: free)

    assert DreamSet.open(index).keep_images() == keeps


def test_rows_that_are_not_there_are_refused_in_memory_too(index: Path) -> None:
    dreams = DreamSet.open(index)
    dreams.keep_images()

    for rows in ([24], [0, -1], []):
        with pytest.raises(IndexError):
            dreams.images(torch.tensor(rows, dtype=torch.int64))


def test_batches_are_copies(index: Path) -> None:
    dreams = DreamSet.open(index)
    dreams.keep_images()
    dreams.images(torch.arange(24)).zero_()

    assert torch.equal(dreams.images(torch.arange(24)), EXPECTED)


def test_a_damaged_shard_is_named_and_not_kept(index: Path) -> None:
    shard = index.parent / "dreams-00001-of-00003.h5"
    good = shard.read_bytes()
    shard.write_bytes(good[:3000] + bytes([good[3000] ^ 1]) + good[3001:])
    dreams = DreamSet.open(index)

    for _ in range(2):
        with pytest.raises(DreamSetError, match=r"00001-of-00003\.h5: damaged: sha256"):
            dreams.keep_images()
    shard.write_bytes(good)
    assert dreams.keep_images()
    assert torch.equal(dreams.images(torch.arange(24)), EXPECTED)


def test_a_shard_that_is_cut_short_while_it_is_read_is_named_and_not_kept(index: Path) -> None:
    dreams = DreamSet.open(index)
    dreams.images(torch.arange(24))
    good = {path: path.read_bytes() for path in index.parent.glob("dreams-*.h5")}
    cut_short(index)

    for _ in range(2):
        with pytest.raises(DreamSetError, match=r"00001-of-00003\.h5: the file ends \d+ bytes too"):
            dreams.images(torch.arange(8, 16))
    for path, data in good.items():
        path.write_bytes(data)
    assert torch.equal(dreams.images(torch.arange(8, 16)), EXPECTED[8:16])


def test_pickles_carry_no_pixels(index: Path) -> None:
    dreams = DreamSet.open(index)
    before = len(pickle.dumps(dreams))
    dreams.keep_images()

    data = pickle.dumps(dreams)
    assert len(data) < before + 500 < before + NUM_BYTES
    arrived = pickle.loads(data)
    for _ in range(3):
        assert torch.equal(arrived.images(torch.arange(24)), EXPECTED)


def _answer(dreams: DreamSet) -> tuple[bool, bool]:
    """In another process: whether images are right without files, and whether more were kept."""
    right = torch.equal(dreams.images(torch.arange(8)), EXPECTED[:8])
    return right, dreams.keep_images()


def test_a_fork_shares_what_was_kept_and_keeps_nothing_itself(index: Path) -> None:
    dreams = DreamSet.open(index)
    for _ in range(2):
        dreams.images(torch.arange(8))
    cut_short(index)
    context = multiprocessing.get_context("fork")
    answers, sender = context.Pipe()
    worker = context.Process(target=lambda: sender.send(_answer(dreams)))
    worker.start()

    assert answers.poll(30)
    assert answers.recv() == (True, False)
    worker.join(30)
    assert worker.exitcode == 0


def test_threads_may_ask_at_once(index: Path) -> None:
    dreams = DreamSet.open(index)
    right = []

    def ask(number: int) -> None:
        draws = generator(number, "thread")
        for _ in range(30):
            rows = torch.randint(0, 24, (8,), generator=draws)
            right.append(torch.equal(dreams.images(rows), EXPECTED[rows]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert right == [True] * 120
    assert dreams._kept.whole is not None
    assert dreams._kept.whole.shape == (24, *IMAGE_SHAPE)
