"""PyTorch's SGD and Adam, in its functional form.

The classes of ``torch.optim`` import PyTorch's compiler when they are made, which takes as long as
importing PyTorch, in every process. Their steps are functions that do not, and are called here.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Parameters = Sequence[Tensor] | Sequence[Mapping[str, Any]]


class Optimizer:
    """What moves some tensors, by their ``grad``.

    Attributes:
        param_groups: The groups of tensors, ``params``, with what holds for each, such as ``lr``.
            A change of it counts from the next step on.
        state: What a step remembers of a tensor; nothing before its first gradient.

    Args:
        parameters: Tensors; or groups of them, as ``param_groups``, whose values win.
        **usual: What holds for groups that say nothing else.
    """

    def __init__(self, parameters: Parameters, **usual: Any) -> None:
        groups = [each for each in parameters if isinstance(each, Mapping)]
        self.param_groups: list[dict[str, Any]] = [
            {**usual, **group} for group in groups or [{"params": list(parameters)}]
        ]
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _moved(self) -> Iterator[tuple[dict[str, Any], list[Tensor], list[Tensor]]]:
        """Yield each group, its tensors that have a gradient, and those gradients."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            yield group, moved, [parameter.grad for parameter in moved]


class SGD(Optimizer):
    """As ``torch.optim.SGD(..., foreach=True)``, to the bit.

    A group has ``lr``, ``momentum``, ``nesterov`` and, where its tensors shall become smaller, a
    ``weight_decay``. The state of a tensor has its ``momentum_buffer``.
    """

    @torch.no_grad()
    def step(self) -> None:
        """Move all tensors that have a gradient."""
        for group, moved, gradients in self._moved():
            buffers = [self.state[parameter].get("momentum_buffer") for parameter in moved]
            sgd(
                moved,
                gradients,
                buffers,
                foreach=True,
                weight_decay=group.get("weight_decay", 0.0),
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0.0,
                nesterov=group["nesterov"],
                maximize=False,
            )
            for parameter, buffer in zip(moved, buffers, strict=True):
                if buffer is not None:
                    self.state[parameter]["momentum_buffer"] = buffer


class Adam(Optimizer):
    """As ``torch.optim.Adam``, to the bit.

    A group has ``lr`` and ``betas``, and ``fused`` where one kernel is to do the whole step.
    """

    def __init__(self, parameters: Parameters, *, fused: bool = False, **usual: Any) -> None:
        super().__init__(parameters, fused=fused, **usual)

    @torch.no_grad()
    def step(self) -> None:
        """Move all tensors that have a gradient."""
        for group, moved, gradients in self._moved():
            states = [self._state_of(parameter, fused=group["fused"]) for parameter in moved]
            beta1, beta2 = group["betas"]
            adam(
                moved,
                gradients,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=group["fused"] or None,  # None: as PyTorch chooses for the device
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )

    def _state_of(self, parameter: Tensor, *, fused: bool) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            # Elsewhere than fused the host counts: a kernel for a single number costs more.
            device = parameter.device if fused else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
