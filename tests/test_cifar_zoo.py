"""The networks of kuangliu/pytorch-cifar: recognised by their tensors, of the known sizes."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from shared.architectures import ARCHITECTURES, build_network, build_skeleton, identify
from shared.checkpoint import Checkpoint
from shared.teacher import teacher_from_checkpoint

# Parameters with ten classes, counted on that repository's own classes.
NUM_PARAMETERS = {
    "cifar_preact_resnet18": 11_171_146,
    "cifar_preact_resnet34": 21_279_306,
    "cifar_preact_resnet50": 23_509_066,
    "cifar_preact_resnet101": 42_501_194,
    "cifar_preact_resnet152": 58_144_842,
    "cifar_senet18": 11_260_354,
    "cifar_mobilenet_v1": 3_217_226,
    "kuangliu_mobilenet_v2": 2_296_922,
    "kuangliu_densenet121": 6_956_298,
    "kuangliu_densenet169": 12_493_322,
    "kuangliu_densenet201": 18_104_330,
    "kuangliu_densenet161": 26_482_378,
    "kuangliu_densenet121_k12": 1_000_618,
    "cifar_resnet101": 42_512_970,
    "cifar_resnet152": 58_156_618,
    "kuangliu_resnet101": 42_512_970,
    "kuangliu_resnet152": 58_156_618,
    "cifar_resnext29_2x64d": 9_128_778,
    "cifar_resnext29_4x64d": 27_104_586,
    "cifar_resnext29_8x64d": 89_598_282,
    "cifar_resnext29_32x4d": 4_774_218,
    "cifar_simple_dla": 15_142_970,
    "cifar_dla": 16_291_386,
}
LARGE = {name for name, number in NUM_PARAMETERS.items() if number > 25_000_000}
LARGE |= {"kuangliu_densenet169", "kuangliu_densenet201"}
BUILT = [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in NUM_PARAMETERS
]
# Width and height before the average over them.
LAST_SIZES = {"cifar_mobilenet_v1": 2} | {
    name: 8 for name in NUM_PARAMETERS if name.startswith("cifar_resnext")
}


def skeleton(name: str, num_classes: int = 10) -> nn.Module:
    return build_skeleton(lambda: ARCHITECTURES[name].build(num_classes))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", BUILT)
def test_it_is_recognised_as_itself_with_as_many_parameters_as_the_original(name: str) -> None:
    network = skeleton(name)

    match = identify(network.state_dict())

    assert (match.architecture, match.num_classes, match.in_channels) == (name, 10, 3)
    rivals = [rival.architecture for rival in match.rivals]  # pooling has no tensors
    assert rivals == ([f"{name}_pool"] if name.startswith("cifar_resnet") else [])
    assert match.assumptions == ()
    assert sum(p.numel() for p in network.parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", BUILT)
def test_it_answers_and_reduces_32_pixels_as_the_original(name: str) -> None:
    torch.manual_seed(0)
    is_huge = NUM_PARAMETERS[name] > 50_000_000  # shapes are enough there
    network = (skeleton(name, 7) if is_huge else build_network(name, num_classes=7)).eval()
    sizes: list[int] = []
    for convolution in convolutions(network):
        convolution.register_forward_hook(lambda *args: sizes.append(args[-1].shape[-1]))

    with torch.no_grad():
        logits = network(torch.randn(2, 3, 32, 32, device="meta" if is_huge else "cpu"))

    assert logits.shape == (2, 7)
    assert is_huge or logits.isfinite().all()
    spatial = [size for size in sizes if size > 1]  # not the weights of channels
    assert (spatial[0], spatial[-1]) == (32, LAST_SIZES.get(name, 4))


def test_a_separable_network_counts_as_the_paper_counts() -> None:
    # Howard et al. 2017, table 1: 3x3 of each channel, then 1x1 of all; 4.2 M with 1000 classes.
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    blocks = sum(9 * a + 2 * a + a * b + 2 * b for a, b in pairwise(widths))
    expected = 27 * 32 + 2 * 32 + blocks

    network = skeleton("cifar_mobilenet_v1", num_classes=1000)

    assert sum(p.numel() for p in network.parameters()) == expected + 1024 * 1000 + 1000
    assert round(expected / 1e6 + 1.025, 1) == 4.2


def test_dense_layers_put_their_channels_first() -> None:
    layer = build_network("kuangliu_densenet121_k12", num_classes=5).get_submodule("dense2.3")
    width = 48 + 3 * 12  # half of 24 + 6 * 12, and three layers before it
    x = torch.randn(2, width, 4, 4)

    y = layer.eval()(x)

    assert y.shape == (2, 12 + width, 4, 4)
    assert torch.equal(y[:, 12:], x)


@pytest.mark.parametrize("depth", [18, 50])
def test_preactivated_shortcuts_take_what_is_activated_and_the_others_what_is_not(
    depth: int,
) -> None:
    network = build_network(f"cifar_preact_resnet{depth}", num_classes=5).eval()
    last = {18: "conv2", 50: "conv3"}[depth]
    for name, convolution in network.named_modules():
        if name.endswith(last):
            nn.init.zeros_(convolution.weight)
    x = torch.randn(2, network.get_submodule("layer2.0.bn1").num_features, 8, 8)
    first, second = (network.get_submodule(f"layer2.{index}") for index in (0, 1))

    strided = first(x)

    activated = first.get_submodule("bn1")(x).relu()
    assert torch.equal(strided, first.get_submodule("shortcut.0")(activated))
    assert strided.shape[-1] == 4
    assert torch.equal(second(strided), strided)


def test_squeezing_weighs_each_channel_by_one_number_between_none_and_one() -> None:
    network = build_network("cifar_senet18", num_classes=5).eval()
    block = network.get_submodule("layer1.0")
    x = torch.randn(2, 64, 8, 8)
    gate = block.get_submodule("fc2")

    def carried(bias: float) -> torch.Tensor:
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, bias)
        return block(x) - x

    open_, half, shut = carried(50.0), carried(0.0), carried(-50.0)
    assert open_.abs().max() > 0.01
    torch.testing.assert_close(half, open_ / 2)
    torch.testing.assert_close(shut, torch.zeros_like(shut))


def test_narrow_ones_are_recognised_too() -> None:
    tensors = skeleton("cifar_senet18").state_dict()
    tensors = {name: _halved(tensor) for name, tensor in tensors.items()}

    match = identify(tensors)

    assert match.architecture == "cifar_senet18"
    assert "other widths" in match.assumptions[0]


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    kept = (1, 3, 10)  # kernels, colors, classes
    return torch.zeros([size if size in kept else size // 2 for size in tensor.shape])


def test_groups_of_a_grouped_convolution_are_told_by_its_shape() -> None:
    for groups, width in [(2, 64), (32, 4)]:
        network = skeleton(f"cifar_resnext29_{groups}x{width}d")
        grouped = [layer.groups for layer in convolutions(network) if layer.groups > 1]
        assert grouped == [groups] * 9


def test_a_file_of_such_a_network_becomes_a_teacher_without_a_word() -> None:
    torch.manual_seed(0)
    network = build_network("kuangliu_mobilenet_v2", num_classes=10).eval()
    images = torch.randn(2, 3, 32, 32)

    checkpoint = Checkpoint(tensors=dict(network.state_dict()), metadata={})
    teacher = teacher_from_checkpoint(checkpoint)

    assert teacher.spec.image_shape == (3, 32, 32)
    assert torch.equal(teacher.network(images), network(images))
