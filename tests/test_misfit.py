import math
import sys
import types
from pathlib import Path

import pytest
import torch
from shown_networks import BYTES, IMAGENET, SYMMETRIC, UNIT, network_shown
from torch import nn

from shared.architectures import build_network
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.input_scale import remembered_inputs
from shared.misfit import CLEARLY, NUM_IMAGES, misfit
from shared.scenes import draw_scenes
from shared.teacher import load_teacher, teacher_from_checkpoint

SHAPE = (3, 16, 16)
SHIPPED = Path(__file__).parents[1] / "data" / "cifar10-resnet20.safetensors"


class Shown(nn.Module):
    """One BatchNorm, whose statistics are those of the very scenes that it is asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        scenes = draw_scenes(NUM_IMAGES, SHAPE, torch.Generator().manual_seed(0))
        self.norm.running_mean.copy_(scenes.mean((0, 2, 3)))
        self.norm.running_var.copy_(scenes.var((0, 2, 3), correction=0) - self.norm.eps)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(inputs)


def test_what_is_remembered_is_at_no_distance() -> None:
    assert misfit(Shown().eval(), SHAPE) == pytest.approx(0, abs=1e-6)


def test_the_distance_is_the_divergence_of_gaussians() -> None:
    shifted, wider = Shown().eval(), Shown().eval()
    deviations = (shifted.norm.running_var + shifted.norm.eps).sqrt()
    shifted.norm.running_mean -= 2 * deviations
    wider.norm.running_var.copy_(4 * deviations.square() - wider.norm.eps)

    assert misfit(shifted, SHAPE) == pytest.approx(2.0, rel=1e-4)  # 2^2 / 2
    assert misfit(wider, SHAPE) == pytest.approx((1 / 4 - 1 + math.log(4)) / 2, rel=1e-4)


def test_it_is_the_median_over_layers() -> None:
    network = nn.Sequential(Shown(), Shown(), Shown()).eval()
    for layer in network[1:]:  # which get what the first puts out: mean 0, variance 1
        layer.norm.running_mean.fill_(1e-12)
        layer.norm.running_var.fill_(1 - layer.norm.eps)
    network[2].norm.running_mean += 100

    assert misfit(network, SHAPE) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.BatchNorm2d(3)),  # has seen nothing
        nn.Sequential(nn.Conv2d(3, 2, 1)),
        nn.Sequential(Shown(), nn.Linear(7, 2)),  # takes other images
    ],
)
def test_what_cannot_be_told_is_infinite(network: nn.Module) -> None:
    assert misfit(network.eval(), SHAPE) == math.inf


def test_huge_images_are_not_tried() -> None:
    assert misfit(Shown().eval(), (3, 4000, 4000)) == math.inf


@pytest.fixture(params=["an activation", "nothing"])
def unusual(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An architecture of one's own whose first BatchNorm does not follow a convolution."""

    def make() -> nn.Sequential:
        first = [nn.Conv2d(3, 16, 3), nn.ReLU()] if request.param == "an activation" else []
        width = 16 if first else 3
        rest = [nn.BatchNorm2d(width), nn.Conv2d(width, 16, 3), nn.ReLU(), nn.BatchNorm2d(16)]
        return nn.Sequential(*first, *rest, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    module = types.ModuleType("unusual_networks")
    module.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unusual_networks", module)
    return "unusual_networks:make"


@pytest.mark.parametrize("scaling", [UNIT, SYMMETRIC, BYTES], ids=["unit", "symmetric", "bytes"])
def test_the_scale_of_pixels_is_told_whatever_stands_before_the_first_batch_norm(
    unusual: str, scaling: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    network = network_shown(*scaling, name=unusual)
    assert remembered_inputs(network, (3, 32, 32)) is None

    checkpoint = Checkpoint(tensors=network.state_dict(), metadata={})
    spec = teacher_from_checkpoint(checkpoint, architecture=unusual).spec

    assert (spec.mean, spec.std) == scaling
    assert any("--mean and --std say otherwise" in sentence for sentence in spec.assumptions)


def test_usual_inputs_stay_usual(unusual: str) -> None:
    network = network_shown(*IMAGENET, name=unusual)
    checkpoint = Checkpoint(tensors=network.state_dict(), metadata={})

    spec = teacher_from_checkpoint(checkpoint, architecture=unusual).spec
    assert (spec.mean, spec.std) == IMAGENET
    given = teacher_from_checkpoint(checkpoint, architecture=unusual, mean=[0.0], std=[1 / 255])
    assert given.spec.std == (1 / 255,) * 3


def test_a_given_scale_that_cannot_be_is_doubted(unusual: str) -> None:
    network = network_shown(*UNIT, name=unusual)
    checkpoint = Checkpoint(tensors=network.state_dict(), metadata={})

    spec = teacher_from_checkpoint(
        checkpoint, architecture=unusual, mean=IMAGENET[0], std=IMAGENET[1]
    ).spec

    assert spec.mean == IMAGENET[0]
    assert any("the weights speak for mean 0 and std 1" in each for each in spec.assumptions)


def learned(name: str) -> dict[str, torch.Tensor]:
    """Tensors of an architecture with learned weights, that has been shown photographs.

    Channels of random weights are all alike, so it does not matter to them where zeros come.
    """
    weights = load_teacher(SHIPPED).network.state_dict()
    return network_shown(*IMAGENET, name=name, weights=weights).state_dict()


@pytest.mark.parametrize("name", ["resnet20", "resnet20_end"])
def test_networks_of_the_same_tensors_are_told_apart(name: str) -> None:
    tensors = learned(name)
    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={})).spec
    said = [sentence for sentence in spec.assumptions if "the tensors fit" in sentence]

    assert spec.architecture == name
    assert len(said) == (name == "resnet20_end")  # the usual one needs no words


@pytest.mark.parametrize("name", ["cifar_resnet18", "cifar_resnet18_pool"])
def test_a_small_stem_with_and_without_pooling_are_told_apart(name: str) -> None:
    tensors = network_shown(*IMAGENET, name=name).state_dict()
    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={})).spec

    assert spec.architecture == name
    said = any("get what they remember" in sentence for sentence in spec.assumptions)
    assert said == name.endswith("_pool")


def test_a_twin_for_small_images_is_told_by_what_it_remembers() -> None:
    tensors = network_shown(*IMAGENET, name="cifar_mobilenet_v2").state_dict()
    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}), image_size=32).spec
    assert spec.architecture == "cifar_mobilenet_v2"

    # Nothing but the statistics says that it is not torchvision's, which is the more common one.
    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={})).spec
    assert spec.architecture == "cifar_mobilenet_v2"
    assert any("get what they remember" in sentence for sentence in spec.assumptions)


def test_whoever_names_an_architecture_is_believed() -> None:
    spec = teacher_from_checkpoint(
        Checkpoint(tensors=learned("resnet20_end"), metadata={}), architecture="resnet20"
    ).spec

    assert spec.architecture == "resnet20"


def test_an_untrained_network_is_the_usual_one() -> None:
    network = build_network("resnet8_end", num_classes=10).eval()
    spec = teacher_from_checkpoint(Checkpoint(tensors=network.state_dict(), metadata={})).spec

    assert spec.architecture == "resnet8"


@pytest.mark.parametrize(
    ("name", "other"), [("resnet20", "resnet20_end"), ("resnet20_end", "resnet20")]
)
def test_under_other_names_the_one_that_remembers_is_suggested(name: str, other: str) -> None:
    renamed = {f"net_{key}": tensor for key, tensor in learned(name).items()}

    with pytest.raises(CheckpointError, match=rf"{name} \(rather than {other}: .*--arch {name} "):
        teacher_from_checkpoint(Checkpoint(tensors=renamed, metadata={}))


def test_the_shipped_teacher_is_no_misfit() -> None:
    right, wrong = (
        misfit(load_teacher(SHIPPED, architecture=name).network, (3, 32, 32))
        for name in ("resnet20", "resnet20_end")
    )

    assert right < 0.1
    assert right * CLEARLY < wrong
