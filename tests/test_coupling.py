"""Which channels go together, on networks where one can see it, and on all that one meets."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from recover.coupling import Coupling, coupled_channels
from recover.slim import Slimming
from shared.architectures import build_network

SHAPE = (3, 16, 16)


def conv(taken: int, made: int, size: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(taken, made, size, padding=size // 2, groups=groups)


class Wrapped(nn.Module):
    """Two convolutions, and what somebody puts between them."""

    def __init__(self, between: nn.Module | None = None, width: int = 8, then: int = 8) -> None:
        super().__init__()
        self.first = conv(3, width)
        self.norm = nn.BatchNorm2d(width)
        self.between = between or nn.ReLU()
        self.second = conv(then, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.between(self.norm(self.first(inputs)))
        return self.head(self.second(x).relu().mean((2, 3)))


class SqueezeAndExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        scale = self.excite(self.squeeze(F.adaptive_avg_pool2d(x, 1).view(n, c)).relu())
        return x * scale.sigmoid().view(n, c, 1, 1)


class SpatialMask(nn.Module):
    """One number for all channels of a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = conv(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(self.mask(x.new_zeros(len(x), 1, *x.shape[2:]))).sigmoid()


class Twice(nn.Module):
    """One layer, used twice: what it takes is then what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu()).relu()


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.more = conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.more(x)), 1)


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        return torch.cat((one.relu(), other), 1)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Flat(nn.Module):
    """Flattens its features, as tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 8)
        self.pool = nn.MaxPool2d(4)
        self.hidden = nn.Linear(8 * 4 * 4, 10)
        self.norm = nn.BatchNorm1d(10)
        self.head = nn.Linear(10, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.pool(self.first(inputs)).relu()
        return self.head(self.norm(self.hidden(x.view(x.size(0), -1))).relu())


class Added(nn.Module):
    """Two branches and a long way around, the one place where three layers must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3, 8), conv(8, 8), conv(3, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.first(inputs)
        return self.head((x + self.second(x.relu()) + self.third(inputs)).mean((2, 3)))


def sizes(coupling: Coupling) -> dict[str, int]:
    """How many units can go, by the weights whose rows they are."""
    return {
        name: len(group)
        for group in coupling.groups
        for name, dim in group.axes
        if dim == 0 and name.endswith("weight")
    }


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """BatchNorm at random: a channel that is left out is then not zero by chance."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=draws))
                module.running_var.copy_(torch.rand(len(module.weight), generator=draws) + 0.5)
    return network.eval()


def without_its_takers(network: nn.Module, left: Mapping[tuple[str, int], object]) -> nn.Module:
    """A copy in which nobody listens to the channels that are cut: zeros in whoever takes them."""
    deaf = copy.deepcopy(network)
    parameters = dict(deaf.named_parameters())
    with torch.no_grad():
        for (name, dim), places in left.items():
            if dim == 1:
                gone = np.setdiff1d(np.arange(parameters[name].shape[1]), places)
                parameters[name].index_fill_(1, torch.from_numpy(gone), 0.0)
    return deaf


def require_exact_cut(network: nn.Module, shape: tuple[int, int, int], fraction: float) -> float:
    """Cut, compare with the network whose takers are deaf, return the share of parameters left."""
    network = lively(network)
    slimming = Slimming(network, shape)
    cut = slimming.cut(network, fraction)
    small = copy.deepcopy(network)
    cut.apply(small)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = without_its_takers(network, cut.left)(images), small(images)
    assert expected.shape == found.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    counts = [sum(p.numel() for p in each.parameters()) for each in (small, network)]
    return counts[0] / counts[1]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Wrapped(), {"first.weight": 8, "norm.weight": 8, "second.weight": 6}),
        (
            Wrapped(nn.Sequential(nn.SiLU(), nn.AvgPool2d(2), nn.ReflectionPad2d(1))),
            {"first.weight": 8},
        ),
        (Wrapped(SqueezeAndExcite()), {"first.weight": 8, "between.squeeze.weight": 2}),
        (Wrapped(SpatialMask()), {"first.weight": 8}),
        (Wrapped(Twice()), {"first.weight": 8, "between.layer.weight": 8}),
        (Wrapped(Dense(), then=12), {"first.weight": 8, "between.more.weight": 4}),
        (Wrapped(conv(8, 8, groups=8)), {"first.weight": 8, "between.weight": 8}),
        (Wrapped(conv(8, 16, groups=4), then=16), {"first.weight": 4, "between.weight": 4}),
        (Flat(), {"first.weight": 8, "hidden.weight": 10}),
        (Added(), {"first.weight": 8, "second.weight": 8, "third.weight": 8}),
    ],
    ids=lambda value: type(getattr(value, "between", value)).__name__,
)
def test_channels_that_belong_together_are_one_unit(
    network: nn.Module, expected: dict[str, int]
) -> None:
    found = sizes(coupled_channels(network.eval(), SHAPE))

    assert {name: found.get(name) for name in expected} == expected
    require_exact_cut(network, SHAPE, 0.5)


@pytest.mark.parametrize(
    "between",
    [
        *(Shuffle(), Halves(), Scale(), nn.Softmax2d(), nn.PReLU(8), nn.GroupNorm(2, 8)),
        *(nn.LocalResponseNorm(3), nn.ConvTranspose2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_understood_stays(between: nn.Module) -> None:
    network = Wrapped(between)

    found = sizes(coupled_channels(network.eval(), SHAPE))

    assert "first.weight" not in found
    assert found["second.weight"] == 6
    require_exact_cut(network, SHAPE, 0.5)


def test_a_weight_that_is_computed_stays() -> None:
    network = Wrapped(weight_norm(conv(8, 8)))

    assert sizes(coupled_channels(network.eval(), SHAPE)).keys() == {"second.weight"}


class OfItsHead(Wrapped):
    """Answers with something that is computed of a weight alone, too."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (1.0 + self.head.weight.sum(dim=-2)).sum()


def with_an_orthogonal_head() -> nn.Module:
    network = Wrapped()
    orthogonal(network.head)
    return network


@pytest.mark.parametrize("make", [OfItsHead, with_an_orthogonal_head])
def test_a_computation_with_weights_alone_keeps_what_goes_into_them(
    make: Callable[[], nn.Module],
) -> None:
    network = make()

    found = sizes(coupled_channels(network.eval(), SHAPE))

    assert found["first.weight"] == 8
    assert "second.weight" not in found
    require_exact_cut(network, SHAPE, 0.5)


class BareNorm(nn.Module):
    """A convolution, and a BatchNorm that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(8, 8)
        self.weight = nn.Parameter(torch.ones(8))
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.layer(x), self.running_mean, self.running_var, self.weight)


def test_tensors_of_a_module_without_a_width_keep_their_channels() -> None:
    network = Wrapped(BareNorm())

    found = sizes(coupled_channels(network.eval(), SHAPE))

    assert (found["first.weight"], found["second.weight"]) == (8, 6)
    assert "between.layer.weight" not in found
    require_exact_cut(network, SHAPE, 0.5)


def test_logits_and_images_are_no_channels_to_remove() -> None:
    axes = {axis for group in coupled_channels(Flat().eval(), SHAPE).groups for axis in group.axes}

    assert ("head.weight", 0) not in axes
    assert ("head.bias", 0) not in axes
    assert ("first.weight", 1) not in axes


def test_padding_with_a_number_of_ones_own_stays_and_ours_follows() -> None:
    class Padding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.pad(x, (0, 0, 0, 0, 2, 2))

    stays = coupled_channels(Wrapped(Padding(), then=12).eval(), SHAPE)
    follows = coupled_channels(build_network("resnet8", num_classes=4).eval(), SHAPE)

    assert sizes(stays)["first.weight"] == 8
    assert [at for at in stays.inputs["second.weight"] if at is None] == [None] * 4
    rows = [len(g) for g in follows.groups if ("layer2.0.conv2.weight", 0) in g.axes]
    assert sorted(rows) == [
        8,
        16,
    ]  # new ones in pairs, and the old ones
    require_exact_cut(build_network("resnet8", num_classes=4), SHAPE, 0.3)


def test_the_network_and_its_hooks_are_as_before() -> None:
    network = build_network("resnet8", num_classes=4).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    coupled_channels(network, SHAPE)

    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("name", "size", "most"),
    [
        *(("resnet20", 16, 0.26), ("resnet14_b", 16, 0.27), ("cifar_vgg11_bn", 32, 0.26)),
        *(("cifar_mobilenet_v2", 32, 0.29), ("wrn_16_1", 16, 0.27), ("resnext50_32x4d", 64, 0.3)),
        *(("efficientnet_b0", 64, 0.29), ("mobilenet_v3_small", 64, 0.29)),
        *(("shufflenet_v2_x0_5", 64, 0.6), ("regnet_y_400mf", 64, 0.3), ("mnasnet0_5", 64, 0.29)),
        pytest.param("densenet121", 64, 0.28, marks=pytest.mark.slow),
        pytest.param("googlenet", 64, 0.27, marks=pytest.mark.slow),
        pytest.param("inception_v3", 96, 0.27, marks=pytest.mark.slow),
        pytest.param("resnet50", 64, 0.27, marks=pytest.mark.slow),
    ],
)
def test_half_the_channels_are_a_network_that_says_the_same(
    name: str, size: int, most: float
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(name, num_classes=5)

    assert require_exact_cut(network, (3, size, size), 0.5) < most
