"""The student's optimizer."""

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


def gradients(student: nn.Module) -> list[Tensor]:
    """Return the gradients of the parameters that have one, in the order of the network."""
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
