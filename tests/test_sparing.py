"""Networks that write into the images they get: whoever looks at these next sees the same ones."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import NUM_CLASSES, blobs
from recover_fixtures import quick_config
from torch import Tensor, nn

from dreamforge.config import SynthesisConfig
from dreamforge.engine import inversion_copy
from dreamforge.inversion_loss import InversionLoss
from recover.folding import folded
from recover.lesson import Lesson
from recover.programs import write_program
from recover.student import require_fitting
from shared.architectures import held
from shared.checkpoint import Checkpoint
from shared.layout import spares_images
from shared.teacher import Teacher, teacher_from_checkpoint

CPU = torch.device("cpu")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.stem((inputs - 0.4) / 0.2)).relu().mean((2, 3)))


class Normalizing(Plain):
    """The same in place."""

    def forward(self, inputs: Tensor) -> Tensor:
        inputs.sub_(0.4).div_(0.2)
        return self.head(self.norm(self.stem(inputs)).relu().mean((2, 3)))


class Clipping(Plain):
    """Changes nothing in black images."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.relu_())


def load(kind: Callable[[], nn.Module], image_size: int = 8) -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind()
        for _ in range(20):
            network(blobs(64)[0] / 255)
    checkpoint = Checkpoint(tensors=network.eval().state_dict(), metadata={})
    with held("somebodys:Network", network):
        return teacher_from_checkpoint(
            checkpoint,
            architecture="somebodys:Network",
            image_size=image_size,
            mean=(0.0,),
            std=(1.0,),
        )


@pytest.mark.parametrize("kind", [Normalizing, Clipping])
def test_a_network_that_changes_its_images_changes_a_copy(kind: type[Plain]) -> None:
    network = load(kind).network
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    for form in (network, copy.deepcopy(network), folded(network, images)):
        given = images.clone()
        form(given)
        assert torch.equal(given, images)


def test_one_that_does_not_gets_no_copy() -> None:
    assert not spares_images(load(Plain).network)


@pytest.mark.parametrize("kind", [Plain, Normalizing])
def test_an_unpruned_student_has_nothing_to_learn(kind: type[Plain]) -> None:
    teacher = load(kind)
    config = quick_config(feature_weight=0.0).resolve(teacher.spec.image_shape)
    images = blobs(16)[0]

    loss = Lesson(teacher, config, CPU, lambda: images).loss(copy.deepcopy(teacher.network), images)

    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_the_objective_of_a_dream_is_that_of_the_network_that_leaves_it_alone() -> None:
    config = SynthesisConfig(num_images=8, batch_size=8, steps=3, precision="float32")
    inputs = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for kind in (Plain, Normalizing):
        teacher = load(kind)
        network = inversion_copy(teacher.network, CPU, torch.float32)
        resolved = config.resolve(teacher.spec.image_shape)
        with InversionLoss(network, resolved, CPU, torch.float32) as objective:
            losses.append(objective(inputs.clone(), torch.arange(8) % NUM_CLASSES)[0])

    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("from_pixels", [False, True])
def test_its_program_agrees_and_leaves_images_alone_too(tmp_path: Path, from_pixels: bool) -> None:
    teacher = load(Normalizing)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = load(Plain).network(images.clone())

    written = write_program(teacher, tmp_path / "n.pt2", from_pixels=from_pixels)

    assert written.difference is not None
    assert written.difference < 1e-5
    given = images.clone()
    torch.testing.assert_close(torch.export.load(tmp_path / "n.pt2").module()(given), expected)
    assert torch.equal(given, images)


def test_a_student_that_starts_from_random_weights_is_told_so_too() -> None:
    network = Normalizing()

    require_fitting(network, "somebodys:Network", load(Plain).spec)

    assert spares_images(network)
