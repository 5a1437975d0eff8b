"""What a first BatchNorm remembers of its inputs, on networks that were shown known ones."""

import math

import pytest
import torch
from shown_networks import BYTES, IMAGENET, SHAPE, SYMMETRIC, UNIT, network_shown, photographs
from torch import Tensor, nn

from shared.architectures import build_network
from shared.checkpoint import Checkpoint
from shared.input_scale import CONVENTIONS, Remembered, better_convention, remembered_inputs
from shared.teacher import Teacher, teacher_from_checkpoint


def teacher(network: nn.Module, **metadata: object) -> Teacher:
    return teacher_from_checkpoint(Checkpoint(tensors=network.state_dict(), metadata=metadata))


@pytest.mark.parametrize("name", ["resnet8", "cifar_vgg11_bn", "cifar_mobilenet_v2"])
@pytest.mark.parametrize(("mean", "std"), [IMAGENET, UNIT, SYMMETRIC, BYTES])
def test_mean_and_spread_of_the_inputs_are_found(
    name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    pixels = photographs()
    expected = [
        (float(value) - m) / s
        for value, m, s in zip(pixels.mean((0, 2, 3)), mean, std, strict=True)
    ]
    spread = float(pixels.std()) / math.prod(std) ** (1 / 3)

    found = remembered_inputs(network_shown(mean, std, name), SHAPE)

    assert found is not None
    assert found.mean == pytest.approx(expected, abs=0.1 * spread)
    assert found.spread == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize(("mean", "std"), [UNIT, SYMMETRIC, BYTES])
def test_where_nothing_is_said_the_weights_decide_against_the_usual(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    spec = teacher(network_shown(mean, std)).spec

    assert (spec.mean, spec.std) == (mean, std)
    assert [text for text in spec.assumptions if "first BatchNorm remembers pixels" in text]


def test_what_fits_the_usual_scale_stays_usual() -> None:
    spec = teacher(network_shown(*IMAGENET)).spec

    assert (spec.mean, spec.std) == IMAGENET
    assert not any("remembers" in text for text in spec.assumptions)


def test_what_is_recorded_counts_and_the_doubt_is_said() -> None:
    network = network_shown(*UNIT)

    spec = teacher(network, mean=IMAGENET[0], std=IMAGENET[1]).spec

    assert (spec.mean, spec.std) == IMAGENET
    doubts = [text for text in spec.assumptions if "the weights speak for mean 0 and std 1" in text]
    assert len(doubts) == 1
    # A dream set was made with what it records; its maker has been told.
    again = teacher_from_checkpoint(
        Checkpoint(tensors=network.state_dict(), metadata={}), spec=spec
    ).spec
    assert (again.mean, again.std) == IMAGENET
    assert not any("speak" in text for text in again.assumptions)


def test_a_single_number_that_is_given_is_kept() -> None:
    checkpoint = Checkpoint(tensors=network_shown(*UNIT).state_dict(), metadata={})

    spec = teacher_from_checkpoint(checkpoint, mean=[0.5]).spec

    assert (spec.mean, spec.std) == ((0.5,) * 3, IMAGENET[1])
    assert any("the weights speak for mean 0 and std 1" in text for text in spec.assumptions)


def test_a_network_that_has_seen_nothing_tells_nothing() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        network = build_network("resnet8", num_classes=10).eval()
        assert remembered_inputs(network, SHAPE) is None


class Scaled(nn.Module):
    """Takes bytes, and scales them itself before the convolution."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, images: Tensor) -> Tensor:
        return self.inside(images / 255 - 0.5)  # type: ignore[no-any-return]


class Headless(nn.Module):
    """BatchNorm that does not follow the first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.convolution(images).relu()).mean((2, 3))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "network",
    [Scaled(network_shown(*UNIT)), Headless(), nn.Conv2d(3, 8, 3)],
    ids=["scaled inside", "relu between", "no norm"],
)
def test_other_beginnings_tell_nothing(network: nn.Module) -> None:
    assert remembered_inputs(network.eval(), SHAPE) is None


def test_no_hook_stays() -> None:
    network = network_shown(*UNIT)

    remembered_inputs(network, SHAPE)

    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_no_better_convention_without_a_plain_case() -> None:
    usual = Remembered(mean=(0.0, 0.0, 0.0), spread=1.2)
    between = Remembered(mean=(0.0, 0.0, 0.0), spread=0.8)  # ImageNet's std, or 0.5: who knows
    halves = Remembered(mean=(0.0, 0.0, 0.0), spread=0.6)

    assert better_convention(None, *IMAGENET) is None
    assert better_convention(usual, *IMAGENET) is None
    assert better_convention(between, *IMAGENET) is None
    assert better_convention(halves, *IMAGENET) == CONVENTIONS[1]
    assert better_convention(usual, *SYMMETRIC) is None  # implausible, but nothing is better
    # Brighter than white by ImageNet's, and by no convention anything like an image.
    odd = Remembered(mean=(3.0, 3.0, 3.0), spread=9.0)
    assert better_convention(odd, *IMAGENET) is None


def test_gray_images_of_low_contrast_are_not_taken_for_others() -> None:
    """CT slices: mean 0.34, standard deviation 0.14, with ImageNet's normalisation and without."""
    normalised = tuple((0.34 - m) / s for m, s in zip(*IMAGENET, strict=True))

    assert better_convention(Remembered(mean=normalised, spread=0.62), *IMAGENET) is None
    assert better_convention(Remembered(mean=(0.34,) * 3, spread=0.14), *IMAGENET) == CONVENTIONS[0]


def test_misfit_is_the_logarithm_of_the_factor() -> None:
    remembered = Remembered(mean=(0.0,), spread=0.6)

    assert remembered.misfit([0.5], [0.5]) == pytest.approx(0.0)
    assert remembered.misfit([0.5], [0.25]) == pytest.approx(math.log(2))
    assert remembered.misfit([-0.1], [0.5]) == math.inf  # darker than black
