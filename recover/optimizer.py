"""The student's optimizer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recover.config import USUAL_RATE, RecoverConfig
from shared.optimizers import SGD

# Of biases and BatchNorm's scales and shifts: their gradients are as much longer, beside what they
# change, in a network that learns well at the usual rate.
VECTOR_FACTOR = 3.0
LEAST_NORM = 1e-3  # of what is changed (Brock et al.'s epsilon): zeros can begin to learn


def make_optimizer(student: nn.Module, config: RecoverConfig) -> SGD:
    """Return SGD that decays weights, but neither biases nor BatchNorm's scales and shifts."""
    clip = config.clip or 0.0
    parameters = list(student.parameters())
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim > 1],
            "weight_decay": config.weight_decay,
            "clip": clip,
        },
        {
            "params": [parameter for parameter in parameters if parameter.ndim <= 1],
            "clip": VECTOR_FACTOR * clip,
        },
    ]
    return SGD(
        groups,
        lr=config.lr or USUAL_RATE,  # of every step: that of recover.schedule
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
    )


@torch.no_grad()
def clip_gradients(optimizer: SGD) -> None:
    """Shorten, in place, gradients that are long beside what they change; nothing waits.

    Adaptive gradient clipping (Brock et al. 2021, arXiv:2102.06171, eq. 3), by tensor: a gradient
    is at most ``clip`` times as long as its weights. What a step does to a layer then depends
    neither on how large the layer's weights are nor on how steep the loss is there, so one rate
    suits networks that differ in both.

    Args:
        optimizer: Of :func:`make_optimizer`; groups with a ``clip`` of 0 are left alone.
    """
    for group in optimizer.param_groups:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not group["clip"] or not parameters:
            continue
        found = [parameter.grad for parameter in parameters]
        norms = zip(torch._foreach_norm(found), torch._foreach_norm(parameters), strict=True)
        factors = [
            (group["clip"] * weights.clamp_min(LEAST_NORM) / gradient).clamp_max(1)
            for gradient, weights in norms
        ]
        # Of a gradient of zeros the quotient is infinite, and the factor 1.
        torch._foreach_mul_(found, factors)


def momentum_of(optimizer: SGD, student: nn.Module) -> dict[str, Tensor]:
    """Return the momentum of the parameters that have some, by name."""
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in student.named_parameters()
        if "momentum_buffer" in optimizer.state.get(parameter, {})
    }


def give_momentum(optimizer: SGD, student: nn.Module, momentum: Mapping[str, Tensor]) -> None:
    """Let the parameters that are named go on with copies, in their own memory format."""
    for name, parameter in student.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer


def gradients(student: nn.Module) -> list[Tensor]:
    """Return the gradients of the parameters that have one, in the order of the network."""
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
