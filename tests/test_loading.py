"""Loader processes read what the process that made the DreamSet would read."""

import gc
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from dreamset_fixtures import tiny_dreams, write_dream_set
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.dreamset import DreamSet
from shared.errors import DreamSetError

NUM_IMAGES = 24


class Dreams(Dataset[tuple[Tensor, Tensor]]):
    """What a user writes around a DreamSet: a list of row numbers becomes one batch."""

    def __init__(self, dreams: DreamSet) -> None:
        self.dreams = dreams

    def __len__(self) -> int:
        return len(self.dreams)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        (batch,) = self.__getitems__([row])
        return batch

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        wanted = torch.tensor(rows)
        return list(zip(self.dreams.images(wanted), self.dreams.labels[wanted], strict=True))


def num_open_shards() -> int:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:  # the listing's own
            continue
    return sum("dreams-" in link for link in links)


@pytest.fixture
def dreams(tmp_path: Path) -> DreamSet:
    return DreamSet.open(write_dream_set(tmp_path, num_shards=3))


# Fork beside torch's idle threads is what DataLoader does by default on Linux; Python 3.12 warns
# of it, as torch does of more workers than cores.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(
    ("method", "opened"),
    [
        ("fork", False),
        ("fork", True),
        # New interpreters, which take seconds to start, inherit nothing that is open.
        pytest.param("spawn", True, marks=pytest.mark.slow),
        pytest.param("forkserver", True, marks=pytest.mark.slow),
    ],
)
def test_two_workers_read_the_bytes_of_direct_reading(
    dreams: DreamSet, method: str, opened: bool
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    if opened:
        dreams.read(0, NUM_IMAGES)
    order = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(
        Dreams(dreams),
        batch_size=5,
        sampler=order,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    expected = tiny_dreams()
    for _ in range(2):  # a second epoch reads through descriptors that are open already
        images, labels = (torch.cat(part) for part in zip(*loader, strict=True))
        assert torch.equal(images, expected.images[order])
        assert torch.equal(labels, expected.labels[order])
    del loader
    gc.collect()
    assert torch.equal(dreams.read(0, NUM_IMAGES).images, expected.images)


def _read_in_child(dreams: DreamSet, connection: Any) -> None:
    inherited = num_open_shards()
    same = torch.equal(dreams.read(0, NUM_IMAGES).images, tiny_dreams().images)
    connection.send((inherited, same, num_open_shards()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_fork_opens_its_own_files_and_leaves_those_of_its_parent(dreams: DreamSet) -> None:
    dreams.read(0, NUM_IMAGES)
    assert num_open_shards() == 3
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_read_in_child, args=(dreams, there))
    process.start()
    inherited, same, afterwards = here.recv()
    process.join()

    assert (inherited, same) == (3, True)
    assert afterwards == 3  # not six: what it inherited is closed
    assert num_open_shards() == 3
    assert torch.equal(dreams.read(0, NUM_IMAGES).images, tiny_dreams().images)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_descriptors_are_closed_with_the_set(dreams: DreamSet) -> None:
    other = DreamSet.open(dreams.path)
    other.read(0, NUM_IMAGES)
    assert num_open_shards() == 3
    del other
    gc.collect()

    assert num_open_shards() == 0


def test_damage_in_a_worker_reaches_the_user_as_it_is(dreams: DreamSet) -> None:
    path = dreams.shard_path(1)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    loader = DataLoader(Dreams(dreams), batch_size=8, num_workers=1, multiprocessing_context="fork")

    with pytest.raises(DreamSetError, match=f"{path.name}: damaged: sha256"):
        list(loader)
