"""Networks of other widths than their architecture's: built from the shapes of their tensors."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock, ResNet

from recover.slim import Slimming
from shared.architectures import build_network, find_candidate, resize
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, ConfigError
from shared.teacher import Teacher, teacher_from_checkpoint


def cut_in_half(name: str, size: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(name, num_classes=7).eval()
    Slimming(network, (3, size, size)).cut(network, 0.5).apply(network)
    return network


def loaded(network: nn.Module, **options: object) -> Teacher:
    tensors = dict(network.state_dict())
    return teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}), **options)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("resnet20", 16), ("cifar_vgg11_bn", 32), ("cifar_mobilenet_v2", 32)),
        *(("resnext50_32x4d", 64), ("efficientnet_b0", 64), ("resnet18", 64)),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_slim_network_is_built_again_from_its_tensors(name: str, size: int, named: bool) -> None:
    network = cut_in_half(name, size)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))

    teacher = loaded(network, architecture=name if named else None, image_size=size)

    with torch.no_grad():
        assert torch.equal(teacher.network(images), network(images))
    assert teacher.spec.num_classes == 7
    assert any("but with other widths: " in text for text in teacher.spec.assumptions)


def test_somebodys_narrow_network_is_recognised() -> None:
    """``width_per_group`` and a first width of its own, as slim ResNets on GitHub have them."""

    class Narrow(ResNet):
        def __init__(self) -> None:
            super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=3)
            plain = resnet18(num_classes=3).state_dict()
            half = {
                k: v[tuple(slice(None, -(-s // 2)) for s in v.shape[:2])] for k, v in plain.items()
            }
            half["conv1.weight"] = plain["conv1.weight"][:32]
            half |= {"fc.weight": plain["fc.weight"][:, :256], "fc.bias": plain["fc.bias"]}
            resize(self, half)

    teacher = loaded(Narrow().eval())

    assert teacher.spec.architecture == "resnet18"
    assert teacher.network.fc.in_features == 256
    assert teacher.spec.num_classes == 3


def test_a_head_of_ones_own_network_that_takes_other_features_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing but the head differs: it fits its own tensors, and not what comes before."""
    (tmp_path / "own_widths.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tensors = find_candidate("own_widths:make").build(5).state_dict()
    tensors["4.weight"] = torch.zeros(5, 6)

    with pytest.raises(ConfigError, match="does not take images of 16x16"):
        teacher_from_checkpoint(
            Checkpoint(tensors=tensors, metadata={}), architecture="own_widths:make", image_size=16
        )


def test_widths_that_do_not_follow_each_other_are_no_network() -> None:
    network = build_network("resnet20", num_classes=4)
    network.layer1[0].conv1 = nn.Conv2d(16, 9, 3, padding=1, bias=False)

    with pytest.raises(CheckpointError, match="no known architecture"):
        loaded(network)
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight is \(9, 16, 3, 3\)"):
        loaded(network, architecture="resnet20")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("0.weight", torch.zeros(4, 3, 5, 5)),  # another kernel
        ("0.weight", torch.zeros(4, 3, 3)),
        ("0.weight", torch.zeros(0, 3, 3, 3)),
        ("1.weight", torch.zeros(3)),  # a layer of another kind
        ("2.weight", torch.zeros(2, 2, 3, 3)),
        ("3.weight", torch.zeros(3, 2, 3, 3)),  # no whole number of groups
    ],
)
def test_what_is_no_other_width_is_refused(name: str, tensor: torch.Tensor) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 4, 3)),
        nn.Conv2d(4, 4, 3, groups=2),
    )

    with pytest.raises(ValueError, match=r"expected|groups"):
        resize(network, {name: tensor})


def test_shared_tensors_stay_shared_and_the_others_untouched() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    network[1].weight = network[0].weight
    bias, before = network[0].bias, copy.deepcopy(network[2])

    resize(network, {"0.weight": torch.ones(4, 4), "2.bias": torch.ones(2)})

    assert network[1].weight is network[0].weight
    assert network[0].weight.shape == (4, 4)
    assert (network[1].in_features, network[1].out_features) == (4, 4)
    assert network[0].bias is bias
    assert torch.equal(network[2].bias, before.bias)


def test_a_network_that_is_only_damaged_is_named_as_before() -> None:
    network = build_network("resnet20", num_classes=4)
    tensors = {name: t for name, t in network.state_dict().items() if name != "bn1.bias"}

    with pytest.raises(CheckpointError, match=r"1 of its \d+ tensors are missing, first bn1\.bias"):
        teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}))
