import copy

import pytest
import torch
from torch import nn

from recover.config import USUAL_RATE, RecoverConfig
from recover.presets import PRESETS
from recover.rate import LEAST_FACTOR, USUAL_SCALE, usual_rate, weight_scale
from recover.schedule import learning_rate
from shared.teacher import Teacher

SHAPE = (3, 32, 32)


def test_the_scale_of_he_initialisation_is_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 64, 3), nn.Conv2d(64, 32, 3), nn.Linear(32, 10))
    for layer in network[:2]:
        nn.init.kaiming_normal_(layer.weight)

    assert weight_scale(network) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("factor", [0.2, 0.45])
def test_the_rate_falls_with_the_square_of_the_weights(factor: float) -> None:
    layer = nn.Conv2d(2, 4, 3)
    nn.init.constant_(layer.weight, USUAL_SCALE * factor * (2 / 18) ** 0.5)

    assert usual_rate(layer) == pytest.approx(USUAL_RATE * factor**2, rel=0.05)


def test_depthwise_convolutions_do_not_count() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 64, 1), nn.Conv2d(64, 64, 3, groups=8)]
    scale = weight_scale(nn.Sequential(*layers))

    assert scale == weight_scale(layers[1])
    assert weight_scale(layers[0]) == USUAL_SCALE


@pytest.mark.parametrize("value", [0.0, 0.6 * USUAL_SCALE * (2 / 18) ** 0.5, 10.0])
def test_usual_large_and_no_weights_have_the_usual_rate(value: float) -> None:
    layer = nn.Conv2d(2, 4, 3)
    nn.init.constant_(layer.weight, value)

    assert usual_rate(layer) == USUAL_RATE
    assert usual_rate(nn.Linear(3, 2)) == USUAL_RATE


def test_tiny_weights_do_not_stop_the_rest() -> None:
    layer = nn.Conv2d(2, 4, 3)
    nn.init.constant_(layer.weight, 1e-9)

    assert usual_rate(layer) == pytest.approx(LEAST_FACTOR * USUAL_RATE)


def test_behind_a_batch_norm_the_scaled_step_does_the_same() -> None:
    """Weights ``s`` times as large, at a rate ``s^2`` times as high, stay ``s`` times as large."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-30)).double()
    large = copy.deepcopy(small)
    with torch.no_grad():
        large[0].weight *= 4
    inputs, wanted = torch.randn(8, 3, 6, 6).double(), torch.randn(8, 4, 4, 4).double()
    for network, rate in ((small, 0.01), (large, 0.16)):
        for _ in range(3):
            loss = (network(inputs) - wanted).square().mean()
            (gradient,) = torch.autograd.grad(loss, network[0].weight)
            with torch.no_grad():
                network[0].weight -= rate * gradient

    assert torch.allclose(large[0].weight, 4 * small[0].weight, rtol=1e-9)


def test_whoever_sets_a_rate_has_it(tiny_teacher: Teacher) -> None:
    assert RecoverConfig(lr=0.3).resolve(SHAPE, 0.01).lr == 0.3
    assert RecoverConfig(**PRESETS["tripurwar2025"]).resolve(SHAPE, 0.01).lr == 1e-3
    assert RecoverConfig().resolve(SHAPE, 0.01).lr == 0.01
    assert RecoverConfig(student="resnet8", feature_weight=None).resolve(SHAPE, 0.01).lr == 0.05


def test_the_rate_of_a_step_is_the_resolved_one() -> None:
    config = RecoverConfig(steps=100, warmup=0.0).resolve(SHAPE, 0.02)

    assert learning_rate(config, 0) == pytest.approx(0.02)
    assert learning_rate(config, 50) == pytest.approx(0.01)
