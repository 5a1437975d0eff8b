"""Whatever the caller has switched on around a call for Python: results are the same."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from simulated_cuda import simulated_cuda
from test_at_hand import FACTS, QUICK, Net, synth, trained
from torch import Tensor, nn

import dreamforge
import recover
from shared.api import usual_state
from shared.device import usual_devices

pytestmark = pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")
Around = Callable[[], AbstractContextManager[Any]]


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


AROUND: list[Around] = [
    lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    lambda: torch.device("meta"),
    default_device,
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained(Net)


@pytest.fixture(scope="module")
def dreams(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dreamforge.DreamSet:
    return synth(network, tmp_path_factory.mktemp("dreams"), shard_size=8)


def run(dreams: dreamforge.DreamSet, network: nn.Module, out: Path, **options: Any) -> Tensor:
    chosen = {"sparsity": 0.5, "out": out, **QUICK, "steps": 6, **options}
    found = recover.run(dreams, teacher=network, **chosen)
    return nn.utils.parameters_to_vector(found.network.parameters()).detach()


@pytest.mark.parametrize("around", AROUND, ids=["autocast", "device-block", "default-device"])
def test_autocast_and_default_device_of_the_caller_do_not_matter(
    around: Around, dreams: dreamforge.DreamSet, network: nn.Module, tmp_path: Path
) -> None:
    expected = run(dreams, network, tmp_path / "expected")
    with around():
        again = synth(network, tmp_path, shard_size=8)
        student = run(again, network, tmp_path / "student")
        read = run(again, network, tmp_path / "student")
        scenes = dreamforge.draw(network, tmp_path / "s.h5", num_images=8, **FACTS, progress=False)

    assert again.num_shards == dreams.num_shards == 2
    for one, other in zip(again.shards(), dreams.shards(), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.logits, other.logits)
    assert torch.equal(student, expected)
    assert torch.equal(read, expected)
    assert scenes.num_images == 8


def test_no_step_computes_with_the_weights_of_an_earlier_one(
    dreams: dreamforge.DreamSet, network: nn.Module, tmp_path: Path
) -> None:
    """As autocast does within a block of the caller's, even one that switches it off."""
    expected = run(dreams, network, tmp_path / "a", precision="bfloat16")
    with torch.autocast("cpu", enabled=False):
        found = run(dreams, network, tmp_path / "b", precision="bfloat16")

    assert torch.equal(found, expected)


@pytest.mark.parametrize("around", AROUND, ids=["autocast", "device-block", "default-device"])
def test_a_set_is_read_in_whatever_a_training_loop_switches_on(
    around: Around, dreams: dreamforge.DreamSet
) -> None:
    rows = torch.tensor([3, 12, 0])
    expected = dreams.select(rows)
    with around():
        opened = dreamforge.DreamSet.open(dreams.path)
        found, images, read = opened.select(rows), opened.images(rows), opened.read(0, 16)

    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(images, expected.images)
    assert read.images.device.type == "cpu"
    assert len(read) == 16


def test_what_the_caller_has_switched_on_is_so_afterwards() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        with usual_state():
            assert not torch.is_autocast_enabled("cpu")
            assert torch.empty(0).device.type == "cpu"
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_cache_enabled()
        assert torch.empty(0).device.type == "meta"


def test_where_nothing_is_switched_on_nothing_is_asked_at_every_call() -> None:
    """A default device, be it the CPU, has Python called for each of PyTorch's functions."""
    with usual_devices():
        assert not torch.overrides._get_current_function_mode_stack()
        assert torch.autocast_increment_nesting() == 1
        torch.autocast_decrement_nesting()


def test_of_two_threads_the_last_gives_the_dtype_back() -> None:
    torch.set_default_dtype(torch.float64)
    found: list[torch.dtype] = []
    both_inside, one_left = Barrier(2), Barrier(2)

    def first() -> None:
        with usual_state():
            both_inside.wait(5)
        one_left.wait(5)

    def second() -> None:
        with usual_state():
            both_inside.wait(5)
            one_left.wait(5)
            found.append(torch.get_default_dtype())

    threads = [Thread(target=each) for each in (first, second)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_rows_may_be_on_any_device(dreams: dreamforge.DreamSet) -> None:
    """As those are that a loop makes whose default device is a GPU."""
    rows = torch.tensor([3, 12, 0])
    with simulated_cuda():
        there = rows.to("cuda")
        found = dreams.select(there).images, dreams.images(there)
        opened = dreamforge.DreamSet.open(dreams.path)
        assert opened.keep_images()
        assert torch.equal(opened.images(there), found[1])

    assert all(torch.equal(images, dreams.select(rows).images) for images in found)
