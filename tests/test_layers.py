import pytest
import torch
from recover_fixtures import odd_network
from torch import nn

from recover.layers import layers_in_order, pass_through
from shared.teacher import Teacher


class Backwards(nn.Module):
    """Defined in another order than called; one layer twice, one never, one normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.twice = nn.Conv2d(4, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 3, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.first(inputs))
        return self.last(self.twice(self.twice(features)).mean((2, 3)))


def test_layers_come_in_the_order_of_the_calls() -> None:
    network = Backwards().eval()

    layers = layers_in_order(network, torch.rand(1, 3, 5, 5))

    assert [(layer.name, layer.is_normalized) for layer in layers] == [
        ("first", True),
        ("last", False),
    ]
    assert [layer.weight_name for layer in layers] == ["first.weight", "last.weight"]
    assert [layer.num_inputs for layer in layers] == [27, 4]
    assert all(network.get_submodule(layer.name) is layer.module for layer in layers)


def test_shared_weights_and_transposed_convolutions_are_left_out() -> None:
    layers = layers_in_order(odd_network().eval(), torch.rand(1, 3, 6, 6))

    assert [layer.name for layer in layers] == ["stem", "grouped", "depthwise", "head"]


def test_a_lone_layer_is_found_under_its_weights_name() -> None:
    (layer,) = layers_in_order(nn.Linear(2, 2), torch.rand(1, 2))

    assert layer.weight_name == "weight"


def test_in_a_residual_network_every_convolution_is_normalized(tiny_teacher: Teacher) -> None:
    layers = layers_in_order(tiny_teacher.network, torch.rand(1, 3, 8, 8))

    assert [layer.name for layer in layers if not layer.is_normalized] == ["linear"]
    assert len(layers) == 8


def test_what_passes_through_a_layer_is_what_it_takes_and_gives() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    inputs = torch.rand(5, 2)

    given, output = pass_through(network, network[1], inputs)

    assert torch.equal(given, network[0](inputs))
    assert torch.equal(output, given.relu())


def test_nothing_after_the_layer_is_computed_and_no_hook_stays() -> None:
    class Never(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("reached")

    network = nn.Sequential(nn.Linear(2, 3), Never())
    pass_through(network, network[0], torch.rand(1, 2))

    with pytest.raises(RuntimeError, match="reached"):
        pass_through(network, network[1], torch.rand(1, 2))
    with pytest.raises(RuntimeError, match="reached"):
        layers_in_order(network, torch.rand(1, 2))
    assert not any(module._forward_hooks for module in network.modules())
