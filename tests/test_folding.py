from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from recover_fixtures import odd_network
from torch import Tensor, nn
from torchvision import models

from recover.folding import folded
from shared.architectures import build_network

INPUTS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def with_statistics(network: nn.Module) -> nn.Module:
    """Statistics and affine parameters that do something, as after training."""
    draws = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=draws) + low)
            module.weight.data.uniform_(0.5, 1.5, generator=draws)
            module.bias.data.uniform_(-0.5, 0.5, generator=draws)
    return network.eval()


def num_norms(network: nn.Module) -> int:
    """Norms that a forward pass goes through."""
    calls = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal calls
        calls += 1

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return calls


def assert_same_answers(network: nn.Module, fast: nn.Module) -> None:
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(fast(inputs), network(inputs), rtol=1e-4, atol=1e-4)


def test_a_folded_network_answers_the_same_without_a_batch_norm() -> None:
    network = with_statistics(torchvision.models.shufflenet_v2_x0_5(num_classes=4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    fast = folded(network, INPUTS)

    assert num_norms(network) > 50
    assert num_norms(fast) == 0
    assert_same_answers(network, fast)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_unusual_layers_are_folded_too() -> None:
    network = with_statistics(odd_network())

    assert_same_answers(network, folded(network, INPUTS))


class Pair(nn.Module):
    """A convolution and a BatchNorm that can be folded, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def features(self, inputs: Tensor) -> Tensor:
        return self.norm(self.convolution(inputs)).relu().mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs))  # type: ignore[no-any-return]


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.convolution(inputs)
        return self.norm(features) + features + self.norm(self.convolution(features))


class OneOfTwo(Pair):
    """Which BatchNorm it is depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(8)

    def features(self, inputs: Tensor) -> Tensor:
        norm = self.norm if inputs.mean() > 0 else self.other
        return norm(self.convolution(inputs)).relu().mean((2, 3))  # type: ignore[no-any-return]


class OneByNumbers(OneOfTwo):
    """Which, Python decides."""

    def numbers(self, inputs: Tensor) -> Any:
        return inputs.mean((1, 2, 3)).tolist()

    def features(self, inputs: Tensor) -> Tensor:
        norm = self.norm if sum(self.numbers(inputs)) > -1 else self.other
        return norm(self.convolution(inputs)).relu().mean((2, 3))  # type: ignore[no-any-return]


class OneByNumPy(OneByNumbers):
    def numbers(self, inputs: Tensor) -> Any:
        return np.asarray(inputs.mean((1, 2, 3)))


class OneByPlaces(OneByNumbers):
    def numbers(self, inputs: Tensor) -> Any:
        return [-float(len((inputs.mean((1, 2, 3)) < -0.5).nonzero()))]


class OneByMask(OneByNumbers):
    def numbers(self, inputs: Tensor) -> Any:
        means = inputs.mean((1, 2, 3))
        return [-1.0 for _ in range(len(means[means < -0.5]))]


class WeightsTwice(Pair):
    """Computes with the convolution's weight again, behind a gate that noise does not open."""

    def features(self, inputs: Tensor) -> Tensor:
        gate = (inputs.mean((1, 2, 3), keepdim=True).abs() - 0.5).relu()
        again = F.conv2d(inputs, self.convolution.weight) * gate
        return super().features(inputs) + again.mean((2, 3))


class ShiftTwice(Pair):
    def features(self, inputs: Tensor) -> Tensor:
        gate = (inputs.mean((1, 2, 3)).abs() - 0.5).relu()
        return super().features(inputs) + gate[:, None] * self.norm.bias


class MoreThanOne(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.5


class LooksAtItsNorm(Pair):
    """Runs without its BatchNorm, and then answers otherwise."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (3.0 if isinstance(self.norm, nn.Identity) else 1.0)


def subclassed() -> nn.Module:
    network = Pair()
    network.norm = MoreThanOne(8)
    return network


@pytest.mark.parametrize(
    "make",
    [
        *(UsedTwice, OneOfTwo, subclassed, LooksAtItsNorm, WeightsTwice, ShiftTwice),
        *(OneByNumbers, OneByNumPy, OneByPlaces, OneByMask),
    ],
)
def test_what_cannot_be_folded_is_left_as_it_is(make: Callable[[], nn.Module]) -> None:
    network = with_statistics(make())

    fast = folded(network, INPUTS)

    assert num_norms(fast) == num_norms(network) > 0
    for inputs in (INPUTS, INPUTS + 1, INPUTS - 1):
        assert torch.equal(fast(inputs), network(inputs))


class Picking(Pair):
    """Takes channels by their numbers, which no image decides."""

    def features(self, inputs: Tensor) -> Tensor:
        return super().features(inputs)[:, torch.arange(7, -1, -1)]


class ByName(Pair):
    def features(self, inputs: Tensor) -> Tensor:
        return self.norm(input=self.convolution(input=inputs)).relu().mean((2, 3))  # type: ignore[no-any-return]


def small_vgg() -> nn.Module:
    features = models.vgg.make_layers([8, "M", 8], batch_norm=True)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("make", "num_left"),
    [
        (lambda: build_network("resnet8", num_classes=4), 0),
        (lambda: models.mobilenet_v2(width_mult=0.25, num_classes=4), 0),
        (small_vgg, 0),
        # All but those that follow a concatenation: two in two blocks each, one after each block.
        (lambda: models.DenseNet(4, (2, 2), 8, num_classes=4), 6),
    ],
    ids=["ResNet", "MobileNetV2", "VGG", "DenseNet"],
)
def test_usual_networks_are_folded(make: Callable[[], nn.Module], num_left: int) -> None:
    network = make().eval()

    fast = folded(network, INPUTS)

    assert num_norms(fast) == num_left < num_norms(network)


class Optional(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 4)

    def forward(self, inputs: Tensor, domain: int | None = None, **more: int) -> Tensor:
        head = self.head if domain is None and not more else self.other
        return head(self.features(inputs))  # type: ignore[no-any-return]


@dataclass
class Answer:
    logits: Tensor


class Wrapped(Pair):
    def forward(self, inputs: Tensor) -> Answer:  # type: ignore[override]
        return Answer(super().forward(inputs))


def of_wrapped() -> nn.Module:
    network = Wrapped()
    network.register_forward_hook(lambda module, inputs, output: output.logits)
    return network


def turned() -> nn.Module:
    network = Pair()
    network.register_forward_hook(lambda module, inputs, output: output[:, [1, 2, 3, 0]])
    return network


def negated() -> nn.Module:
    network = Pair()
    network.register_forward_pre_hook(lambda module, inputs: (-inputs[0],))
    return network


def with_a_forward_of_its_own() -> nn.Module:
    network = Pair()
    network.forward = lambda inputs: -Pair.forward(network, inputs)  # type: ignore[method-assign]
    return network


def under_two_names() -> nn.Module:
    network = Pair()
    network.alias = network.convolution
    return network


@pytest.mark.parametrize(
    "make",
    [
        Pair,
        Optional,
        Picking,
        ByName,
        of_wrapped,
        turned,
        negated,
        under_two_names,
        with_a_forward_of_its_own,
    ],
)
def test_a_folded_network_does_all_that_its_forward_and_its_hooks_do(
    make: Callable[[], nn.Module],
) -> None:
    network = with_statistics(make())

    fast = folded(network, INPUTS)

    if make is not with_a_forward_of_its_own:  # which computes with the original
        assert num_norms(fast) == 0
    assert_same_answers(network, fast)


def test_hooks_are_never_given_anything_but_tensors() -> None:
    network, seen = with_statistics(nn.Sequential(Pair())), []
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(type(output)))

    folded(network, INPUTS)

    assert set(seen) == {Tensor}


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e6])
def test_logits_may_be_large_and_far_from_zero(gain: float, offset: float) -> None:
    network = with_statistics(Pair())
    with torch.no_grad():
        network.head.weight.mul_(gain)
        network.head.bias.mul_(gain).add_(offset * gain)

    assert num_norms(folded(network, INPUTS)) == 0


def test_scales_that_half_precision_does_not_hold_are_not_folded() -> None:
    network = with_statistics(Pair())
    network.norm.eps = 1e-12
    network.norm.running_mean[0] = 0.0
    network.norm.running_var[0] = 0.0
    with torch.no_grad():
        network.convolution.weight[0] = 0.0
        network.convolution.weight[0, 0, 0, 0] = 1.0
        network.convolution.bias[0] = 0.0
    inputs = INPUTS.clone()
    inputs[:, 0] = 0.0  # which the channel is of, and never varied

    assert num_norms(folded(network, inputs)) == 0
    assert num_norms(folded(network, inputs, torch.bfloat16)) == 0
    fast = folded(network, inputs, torch.float16)
    assert num_norms(fast) == 1
    with torch.autocast("cpu", dtype=torch.float16):
        assert fast(inputs).isfinite().all()
