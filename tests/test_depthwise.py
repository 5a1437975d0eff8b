import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recover_fixtures import begin_distillation, quick_config
from torch import Tensor, nn

from dreamforge.inversion_loss import inversion_copy
from recover.layers import layers_in_order
from shared.architectures import build_network
from shared.depthwise import DenselyComputedConv2d, unstride
from shared.seeding import generator
from shared.teacher import Teacher

CPU = torch.device("cpu")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "depthwise"))


def small_network() -> nn.Sequential:
    """A network for images of 3 channels and 4 classes, with a strided depthwise convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def gradients(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    leaf = inputs.clone().requires_grad_()
    output = layer(leaf)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    return output, *torch.autograd.grad((output * weights).sum(), (leaf, *layer.parameters()))


@pytest.mark.parametrize("stride", [2, (2, 1), (1, 3)])
@pytest.mark.parametrize("padding", [0, 1, (2, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_stay(
    stride: int | tuple[int, int], padding: int | tuple[int, int], dilation: int, *, bias: bool
) -> None:
    strided = nn.Conv2d(
        6, 12, 3, stride, padding=padding, dilation=dilation, groups=6, bias=bias
    ).double()
    dense = copy.deepcopy(strided)
    unstride(dense, CPU)
    inputs = noise(2, 6, 9, 10).double()

    assert type(dense) is DenselyComputedConv2d
    for found, expected in zip(gradients(dense, inputs), gradients(strided, inputs), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, padding_mode="reflect", groups=4),
        nn.Conv1d(4, 4, 3, stride=2, groups=4),
    ],
)
def test_other_convolutions_stay_as_they_are(layer: nn.Module) -> None:
    before = type(layer)
    unstride(layer, CPU)

    assert type(layer) is before


def test_a_network_keeps_its_names_and_its_answers() -> None:
    network = build_network("cifar_mobilenet_v2", num_classes=3).eval()
    changed = copy.deepcopy(network)
    unstride(changed, CPU)
    inputs = noise(2, 3, 16, 16)

    assert changed.state_dict().keys() == network.state_dict().keys()
    assert sum(type(module) is DenselyComputedConv2d for module in changed.modules()) == 3
    torch.testing.assert_close(changed(inputs.requires_grad_()), network(inputs))


def test_only_a_gradient_of_the_inputs_costs_a_dense_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(4, 4, 3, stride=2, groups=4)
    unstride(layer, CPU)
    strides: list[object] = []
    convolve = F.conv2d

    def spy(*arguments: Any) -> Tensor:
        strides.append(arguments[3])
        return convolve(*arguments)

    monkeypatch.setattr(F, "conv2d", spy)
    inputs = noise(1, 4, 9, 9)
    layer(inputs)
    layer(inputs.requires_grad_())
    with torch.no_grad():
        layer(inputs)

    assert strides == [(2, 2), 1, (2, 2)]


def test_inversion_and_distillation_ask_for_it(tiny_teacher: Teacher) -> None:
    teacher = dataclasses.replace(tiny_teacher, network=small_network())
    student = begin_distillation(teacher, quick_config()).student
    inverted = inversion_copy(teacher.network, CPU, torch.float32)

    assert type(student[2]) is type(inverted[2]) is DenselyComputedConv2d
    assert type(teacher.network[2]) is nn.Conv2d


def test_layers_are_found_as_before() -> None:
    network, inputs = small_network(), noise(2, 3, 8, 8)
    unstride(network, CPU)

    assert [layer.name for layer in layers_in_order(network, inputs)] == ["0", "2", "5"]


def test_where_strides_cost_nothing_nothing_changes() -> None:
    network = build_network("cifar_mobilenet_v2", num_classes=3)
    unstride(network, torch.device("cuda"))

    assert not any(isinstance(module, DenselyComputedConv2d) for module in network.modules())
