import copy

import pytest
import torch
from torch import Tensor, nn

from shared.architectures import build_network
from shared.depthwise import DenselyComputedConv2d, unstride
from shared.seeding import generator

CPU = torch.device("cpu")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "depthwise"))


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
    with torch.no_grad():
        assert torch.equal(changed(inputs), network(inputs))  # the very same computation


def test_where_strides_cost_nothing_nothing_changes() -> None:
    network = build_network("cifar_mobilenet_v2", num_classes=3)
    unstride(network, torch.device("cuda"))

    assert not any(isinstance(module, DenselyComputedConv2d) for module in network.modules())
