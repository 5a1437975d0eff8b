"""A tiny teacher that really classifies, and the files it comes in."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor

from dreamforge.config import SynthesisConfig
from recover import costs
from shared.architectures import build_network
from shared.checkpoint import save_network
from shared.images import to_images, to_pixels
from shared.seeding import generator
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint

NUM_CLASSES = 4
IMAGE_SHAPE = (3, 8, 8)
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: the last file of one process keeps the other one waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A shell starts background jobs with SIGINT ignored, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny networks lose more to threads than they win, and CI machines have few cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _few_timed_runs() -> Iterator[None]:
    """Every run of recover ends with timing its networks: an exact median is of no use here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "NUM_TIMED_RUNS", 3)
        yield


def blobs(num_images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return uint8 images (N, 3, 8, 8) of bright quadrants, and which quadrant as int64 (N,)."""
    draws = generator(seed, "blobs")
    labels = torch.randint(0, NUM_CLASSES, (num_images,), generator=draws)
    pixels = torch.rand(num_images, *IMAGE_SHAPE, generator=draws) * 0.4
    for label in range(NUM_CLASSES):
        row, column = divmod(label, 2)
        rows, columns = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
        pixels[labels == label, :, rows, columns] += 0.5
    return to_images(pixels), labels


@pytest.fixture(scope="session")
def tiny_teacher() -> Teacher:
    """A ResNet-8 for 8x8 images that tells bright quadrants apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet8", num_classes=NUM_CLASSES)
    images, labels = blobs(512)
    inputs = (to_pixels(images) - 0.5) / 0.25
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for step in range(40):
        rows = slice(64 * (step % 8), 64 * (step % 8) + 64)
        loss = F.cross_entropy(network(inputs[rows]), labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    network.eval().requires_grad_(False)
    spec = TeacherSpec(
        architecture="resnet8",
        num_classes=NUM_CLASSES,
        image_shape=IMAGE_SHAPE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        class_names=QUADRANTS,
        fingerprint=fingerprint(network),
    )
    return Teacher(network=network, spec=spec)


@pytest.fixture(scope="session")
def teacher_file(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_network(path, tiny_teacher.network, tiny_teacher.spec.to_json())
    return path


@pytest.fixture(scope="session")
def tiny_config() -> SynthesisConfig:
    """Three shards of one batch of eight."""
    return SynthesisConfig(
        num_images=24, batch_size=8, shard_size=8, steps=6, jitter=1, precision="float32"
    )


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()
