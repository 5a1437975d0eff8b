"""The student's optimizer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recover.config import USUAL_RATE, RecoverConfig


def make_optimizer(student: nn.Module, config: RecoverConfig) -> torch.optim.SGD:
    """Return SGD that decays weights, but neither biases nor BatchNorm's scales and shifts."""
    parameters = list(student.parameters())
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1]},
    ]
    return torch.optim.SGD(
        groups,
        lr=config.lr or USUAL_RATE,  # of every step: that of recover.schedule
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        foreach=True,
    )


def momentum_of(optimizer: torch.optim.SGD, student: nn.Module) -> dict[str, Tensor]:
    """Return the momentum of the parameters that have some, by name."""
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in student.named_parameters()
        if "momentum_buffer" in optimizer.state.get(parameter, {})
    }


def give_momentum(
    optimizer: torch.optim.SGD, student: nn.Module, momentum: Mapping[str, Tensor]
) -> None:
    """Let the parameters that are named go on with copies, in their own memory format."""
    for name, parameter in student.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer


def gradients(student: nn.Module) -> list[Tensor]:
    """Return the gradients of the parameters that have one, in the order of the network."""
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
