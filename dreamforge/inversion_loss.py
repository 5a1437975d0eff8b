"""The objective as a function of the inputs: teacher, BatchNorm statistics and opponents in one.

Eager or compiled, with one answer (up to rounding) and one way to call it.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from dreamforge.bn_stats import BatchNormMonitor
from dreamforge.config import SynthesisConfig
from dreamforge.objective import objective
from shared.answers import has_sigmoids
from shared.compiling import compile_function
from shared.depthwise import unstride
from shared.device import autocast
from shared.layout import layout_of

Answers = Callable[[Tensor], Sequence[Tensor]]  # inputs to the logits of every opponent


class InversionLoss:
    """The objective at given inputs; callable within its ``with`` block.

    Args:
        network: Frozen, in evaluation mode, in ``dtype`` but for its BatchNorms.
        config: Resolved.
        device: Of the network.
        dtype: To compute in.
        compiled: Whether calls run compiled code, which is made anew for each shape of inputs.
        opponents: What answers the inputs differently, if all goes well.
    """

    def __init__(
        self,
        network: nn.Module,
        config: SynthesisConfig,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        opponents: Answers | None = None,
    ) -> None:
        self._network = network
        self._layout = layout_of(network)
        self._sigmoids = has_sigmoids(network)
        self._opponents = opponents
        self._config = config
        self._device = device
        self._dtype = dtype
        self._monitor = BatchNormMonitor(network, plain=compiled)
        self._compute = compile_function(self._terms) if compiled else self._terms

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of normalised float32 ``(N, C, H, W)``, and its unweighted terms.

        Targets are classes or probabilities, as :func:`dreamforge.objective.objective` says.
        """
        return self._compute(inputs, targets)

    def __enter__(self) -> Self:
        self._monitor.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._monitor.__exit__(*error)

    def _terms(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(self._device, self._dtype):
            logits = self._network(inputs.contiguous(memory_format=self._layout))
        stats = self._monitor.take()
        answers = self._opponents(inputs) if self._opponents else ()
        return objective(
            self._config, inputs, logits, targets, stats, answers, sigmoids=self._sigmoids
        )


def inversion_copy(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Copy the network, in the layout it wants, with convolutions already in the compute dtype.

    Autocast would cast frozen weights again in every step (it only remembers casts of weights
    that train). BatchNorm stays in float32.
    """
    copied = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            module.to(dtype)
    unstride(copied, device)
    return copied.to(memory_format=layout_of(copied))
