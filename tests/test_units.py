"""Dreams are moved in units in which inputs have variance one, whatever a network takes."""

import dataclasses

import pytest
import torch
from shown_networks import BYTES, IMAGENET, SYMMETRIC, UNIT, network_shown, photographs
from torch import nn

from dreamforge.config import SynthesisConfig
from dreamforge.engine import Engine
from dreamforge.engines import rehearsing_engine
from dreamforge.units import Rescaled, rescaled, usual_units
from shared.checkpoint import Checkpoint
from shared.images import to_images
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint, teacher_from_checkpoint

CPU = torch.device("cpu")


def teacher_of(convention: tuple[tuple[float, ...], tuple[float, ...]]) -> Teacher:
    checkpoint = Checkpoint(tensors=network_shown(*convention).state_dict(), metadata={})
    return teacher_from_checkpoint(checkpoint, mean=convention[0], std=convention[1])


@pytest.mark.parametrize("convention", [IMAGENET, SYMMETRIC])
def test_inputs_of_about_unit_variance_stay_as_they_are(
    convention: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    teacher = teacher_of(convention)

    units = usual_units(teacher, "inversion")
    assert units.teacher is teacher
    assert not units.remarks


@pytest.mark.parametrize("convention", [UNIT, BYTES])
def test_others_are_rescaled_and_answer_as_before(
    convention: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    teacher, pixels = teacher_of(convention), photographs()
    known = fingerprint(teacher.network)

    units = usual_units(teacher, "inversion")
    changed = units.teacher

    inputs = changed.normalize(pixels)
    assert isinstance(changed.network, Rescaled)
    assert [remark for remark in units.remarks if "in units of that" in remark]
    assert float(inputs.std()) == pytest.approx(1, rel=0.4)
    assert float(inputs.mean().abs()) < 0.2
    assert torch.allclose(changed.denormalize(inputs), pixels, atol=1e-5)
    images = to_images(pixels)
    assert torch.allclose(changed.logits(images), teacher.logits(images), rtol=1e-3, atol=1e-3)
    assert fingerprint(teacher.network) == known
    assert (teacher.spec.mean, teacher.spec.std) == convention


@pytest.mark.parametrize(("convention", "is_far"), [(IMAGENET, False), (UNIT, True), (BYTES, True)])
def test_where_no_batch_norm_tells_mean_and_std_do(
    convention: tuple[tuple[float, ...], tuple[float, ...]], is_far: bool
) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(7200, 4)]
    spec = dataclasses.replace(
        teacher_of(IMAGENET).spec, num_classes=4, mean=convention[0], std=convention[1]
    )
    teacher, pixels = Teacher(network=nn.Sequential(*layers), spec=spec), photographs()

    units = usual_units(teacher, "inversion")

    assert isinstance(units.teacher.network, Rescaled) == is_far
    assert [remark for remark in units.remarks if "by mean and std" in remark] == [*units.remarks]
    assert len(units.remarks) == is_far
    inputs = units.teacher.normalize(pixels)
    assert float(inputs.std()) == pytest.approx(1, rel=0.4)
    assert float(inputs.mean().abs()) < 0.2
    images = to_images(pixels)
    expected = teacher.logits(images)
    torch.testing.assert_close(units.teacher.logits(images), expected, rtol=1e-3, atol=1e-3)


class Unpadded(nn.Module):
    """Without padding at its border a scale can be folded into the first convolution exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.norm(self.convolution(images)).relu().mean((2, 3))
        return self.head(features)  # type: ignore[no-any-return]


def test_a_network_and_its_twin_for_other_inputs_dream_the_same() -> None:
    """Of the same function of pixels come the same dreams, in whatever units it takes them."""
    torch.manual_seed(0)
    usual, twin = Unpadded(), Unpadded()
    mean, std = (0.5, 0.4, 0.3), 0.25
    usual.train()((photographs() - torch.tensor(mean).view(3, 1, 1)) / std)
    with torch.no_grad():
        twin.load_state_dict(usual.state_dict())
        twin.convolution.weight /= std
        undone = twin.convolution.weight.sum((2, 3)) @ torch.tensor(mean)
        twin.convolution.bias -= undone  # type: ignore[operator]
    spec = TeacherSpec(
        architecture="twins:make",
        num_classes=4,
        image_shape=(3, 16, 16),
        mean=mean,
        std=(std,) * 3,
        fingerprint="0" * 64,
    )
    unit = TeacherSpec(
        architecture="twins:make",
        num_classes=4,
        image_shape=(3, 16, 16),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        fingerprint="0" * 64,
    )
    config = SynthesisConfig(num_images=8, steps=6, precision="float32", compile="off")
    config = config.resolve((3, 16, 16))

    dreams = [
        Engine(teacher, config, CPU).synthesize(0, 0, 8).dreams.images.float()
        for teacher in (
            Teacher(network=usual, spec=spec),
            rescaled(Teacher(network=twin, spec=unit), mean, (std,) * 3),
        )
    ]

    assert dreams[0].std() > 20
    assert (dreams[0] - dreams[1]).abs().max() <= 1  # of 255, rounding


@pytest.mark.parametrize("convention", [IMAGENET, SYMMETRIC, UNIT])
@pytest.mark.parametrize("space", ["natural", "pixels"])
def test_a_network_that_saw_gray_images_dreams_in_gray(
    convention: tuple[tuple[float, ...], tuple[float, ...]], space: str
) -> None:
    network = network_shown(*convention, seed=1, gray=True)
    checkpoint = Checkpoint(tensors=network.state_dict(), metadata={})
    teacher = teacher_from_checkpoint(checkpoint, mean=convention[0], std=convention[1])
    config = SynthesisConfig(num_images=4, steps=4, space=space, compile="off")

    units = usual_units(teacher, "inversion")
    engine = Engine(
        units.teacher, config.resolve(teacher.spec.image_shape), CPU, gray=units.is_gray
    )
    images = engine.synthesize(0, 0, 4).dreams.images

    assert units.is_gray
    assert units.remarks[0].startswith("dreams are gray")
    assert not usual_units(teacher, "generator").is_gray
    assert torch.equal(images, images[:, :1].expand_as(images))
    assert images.float().std() > 20
    known = to_images(photographs())
    assert torch.allclose(units.teacher.logits(known), teacher.logits(known), rtol=1e-3, atol=1e-3)


def test_a_network_that_saw_colors_dreams_in_colors() -> None:
    teacher = teacher_of(UNIT)

    assert not usual_units(teacher, "inversion").is_gray


@pytest.mark.parametrize("method", ["inversion", "adaptive", "generator"])
def test_every_method_takes_a_rescaled_teacher(method: str) -> None:
    teacher = teacher_of(UNIT)
    config = SynthesisConfig(num_images=8, steps=2, method=method, batch_size=8)

    rehearsing_engine(teacher, config.resolve(teacher.spec.image_shape), CPU).rehearse(8)
