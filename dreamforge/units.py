"""The units in which dreams are moved: those in which a teacher's inputs have variance one.

Starts, rates and penalties are made for inputs that were normalised as usual. A network that took
its pixels in [0, 1], or images of little contrast, is given a first step that undoes it: to it a
dream of unit variance is what its first BatchNorm remembers, and every constant means the same.
"""

import dataclasses

from torch import Tensor, nn

from shared.input_scale import Remembered, remembered_inputs
from shared.teacher import Teacher

_MOST = 2.5  # times as large or as small: nearer ones are left as they are
# What is found of networks whose inputs were normalised as usual (shared/input_scale.py).
_USUAL = 1.15


class Rescaled(nn.Module):
    """A network behind ``inputs * scale + offset``, with an offset per channel."""

    offset: Tensor

    def __init__(self, network: nn.Module, scale: float, offset: Tensor) -> None:
        """Take the network as it is, not a copy."""
        super().__init__()
        self.network = network
        self.scale = scale
        self.register_buffer("offset", offset.view(1, -1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's answer."""
        return self.network(inputs * self.scale + self.offset)


def in_usual_units(teacher: Teacher) -> Teacher:
    """Return the teacher for inputs of unit variance: itself, where its own have about that.

    To images it answers as before, but for rounding. Its spec has another mean and std, so it is
    for making dreams and not for describing them.
    """
    remembered = remembered_inputs(teacher.network, teacher.spec.image_shape)
    if remembered is None or 1 / _MOST <= remembered.spread / _USUAL <= _MOST:
        return teacher
    return rescaled(teacher, remembered)


def rescaled(teacher: Teacher, remembered: Remembered) -> Teacher:
    """Return the teacher for inputs that are standardised by what is remembered."""
    spec, scale = teacher.spec, remembered.spread / _USUAL
    offset = next(teacher.network.parameters()).new_tensor(remembered.mean)
    units = list(zip(spec.mean, spec.std, remembered.mean, strict=True))
    return Teacher(
        network=Rescaled(teacher.network, scale, offset),
        spec=dataclasses.replace(
            spec,
            mean=tuple(m + s * a for m, s, a in units),
            std=tuple(s * scale for s in spec.std),
        ),
    )
