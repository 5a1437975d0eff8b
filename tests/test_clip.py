"""Gradients are no longer than their weights allow."""

from typing import Any

import pytest
import torch
from recover_fixtures import begin_distillation, quick_config
from torch import Tensor, nn

from recover.config import USUAL_CLIP, RecoverConfig
from recover.optimizer import LEAST_NORM, VECTOR_FACTOR, clip_gradients, make_optimizer
from recover.presets import PRESETS
from shared.teacher import Teacher


def clipped(network: nn.Module, clip: float) -> dict[str, Tensor]:
    """Return the gradients of ``network`` that are left, by name."""
    clip_gradients(make_optimizer(network, quick_config(clip=clip)))
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def layer_with_gradients(length: float) -> nn.Linear:
    """A layer of a 2-norm of 2 in its weights and 1 in its biases, and gradients of a length."""
    layer = nn.Linear(8, 4)
    for parameter, norm in ((layer.weight, 2.0), (layer.bias, 1.0)):
        with torch.no_grad():
            parameter.mul_(norm / parameter.norm())
        gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        parameter.grad = gradient * (length / gradient.norm())
    return layer


def test_long_gradients_get_the_length_that_their_weights_allow() -> None:
    layer = layer_with_gradients(5.0)
    before = [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    found = clipped(layer, 0.1)

    assert float(found["weight"].norm()) == pytest.approx(0.1 * 2.0)
    assert float(found["bias"].norm()) == pytest.approx(0.1 * VECTOR_FACTOR * 1.0)
    for gradient, was in zip(found.values(), before, strict=True):
        assert torch.allclose(gradient / gradient.norm(), was / was.norm(), atol=1e-6)


@pytest.mark.parametrize(("length", "clip"), [(0.19, 0.1), (5.0, 0.0), (0.0, 0.1)])
def test_short_gradients_and_all_where_nothing_is_clipped_stay(length: float, clip: float) -> None:
    layer = layer_with_gradients(length)
    before = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}

    found = clipped(layer, clip)

    assert all(torch.equal(found[name], before[name]) for name in before)


def test_weights_of_zeros_can_begin_to_learn() -> None:
    layer = layer_with_gradients(5.0)
    nn.init.zeros_(layer.weight)

    assert float(clipped(layer, 0.1)["weight"].norm()) == pytest.approx(0.1 * LEAST_NORM)


def test_parameters_without_gradients_are_left_alone() -> None:
    layer = layer_with_gradients(5.0)
    layer.bias.grad = None

    assert clipped(layer, 0.1).keys() == {"weight"}


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_steps_turn_small_weights_behind_a_batch_norm_no_further_than_large_ones(
    tiny_teacher: Teacher, clip: float
) -> None:
    def turned(scale: float) -> float:
        """How far the first step changes the first layer, relative to its weights."""
        run = begin_distillation(
            tiny_teacher, quick_config(clip=clip, weight_decay=0.0, warmup=0.0, sparsity=0.0)
        )
        weight: Any = next(p for p in run.student.parameters() if p.ndim == 4)
        with torch.no_grad():
            weight.mul_(scale)
        before = weight.detach().clone()
        run.advance()
        return float((weight.detach() - before).norm() / before.norm())

    quotient = turned(0.1) / turned(1.0)

    # Without, by the square of the scale (van Laarhoven 2017, arXiv:1706.05350).
    assert quotient == pytest.approx(1.0 if clip else 100.0, rel=0.05)


def test_what_the_papers_did_is_not_clipped() -> None:
    shape = (3, 32, 32)

    assert RecoverConfig(**PRESETS["tripurwar2025"]).resolve(shape).clip == 0
    assert RecoverConfig(student="resnet8").resolve(shape).clip == 0  # from random weights
    assert RecoverConfig().resolve(shape).clip == USUAL_CLIP
    assert RecoverConfig(clip=0.0).resolve(shape).clip == 0
