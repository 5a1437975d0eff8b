"""The student averaged over its last steps: what is saved in place of the last step's weights.

Averaging irons out the noise of single batches (Polyak & Juditsky 1992); exponentially, as here, it
forgets the first steps (Tarvainen & Valpola 2017, arXiv:1703.01780, section 2).
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recover.cut import Cut
from recover.masks import Masks
from shared.architectures import resize


class RunningAverage:
    """An exponential moving average of a student's weights and BatchNorm statistics.

    The statistics are averaged like the weights: they are those that the averaged steps had, on
    the same mixed images. Integers, such as BatchNorm's count of batches, are the last ones.

    Attributes:
        network: The average so far, in eval mode; it needs no gradients.

    Args:
        student: Where it starts.
        decay: In [0, 1): what is left of an average after one more step. The first steps count for
            more, see :func:`decay_at`.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(student).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Take in the student as it is after ``step``, counted from 0.

        Weights that are zero in both stay exactly zero.
        """
        averages, values = _floats(self.network), _floats(student)
        torch._foreach_lerp_(averages, values, 1 - decay_at(self._decay, step))
        for average, value in zip(self.network.buffers(), student.buffers(), strict=True):
            if not average.is_floating_point():
                average.copy_(value)

    def prune(self, masks: Masks) -> None:
        """Set the weights that ``masks`` prune to zero."""
        masks.apply(self.network)

    def cut(self, cut: Cut) -> None:
        """Remove the channels that the student has lost."""
        cut.apply(self.network)

    def state(self) -> dict[str, Any]:
        """Return the average as a state dict."""
        return self.network.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        resize(self.network, state)
        self.network.load_state_dict(state)


def decay_at(decay: float, step: int) -> float:
    """Return ``min(decay, (1 + step) / (10 + step))``.

    So that an average over a thousand steps does not consist of the untaught student for the first
    thousand: the rule of TensorFlow's ExponentialMovingAverage with ``num_updates``.
    """
    return min(decay, (1 + step) / (10 + step))


def _floats(network: nn.Module) -> list[Tensor]:
    tensors = [*network.parameters(), *network.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
