"""The units in which dreams are moved: those in which a teacher's inputs have variance one.

Starts, rates and penalties are made for inputs that were normalised as usual. A network that took
its pixels in [0, 1], or images of little contrast, is given a first step that undoes it: to it a
dream of unit variance is what its first BatchNorm remembers, and every constant means the same.

A network for color images may have seen gray ones alone: X-rays, with the weights of ImageNet to
begin with. Its filters for colors then remember next to nothing, and a dream's least tint is a
huge distance from that; so its dreams are gray, too.
"""

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor, nn

from shared.input_scale import USUAL_MEAN, USUAL_SPREAD, Remembered, remembered_inputs
from shared.spec import TeacherSpec
from shared.teacher import Teacher

_MOST = 2.5  # times as large or as small: nearer ones are left as they are
# What is found of networks whose inputs were normalised as usual (shared/input_scale.py).
_USUAL = 1.15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Units:
    """What to invert.

    Attributes:
        teacher: Answers images as the one it was made of, but for rounding. Where it is another,
            its spec has another mean and std: it is for making dreams, not for describing them.
        is_gray: Whether dreams are to be gray, in channels that are equal in the teacher's units.
        remarks: What a user should know, one sentence each.
    """

    teacher: Teacher
    is_gray: bool = False
    remarks: tuple[str, ...] = ()


class Rescaled(nn.Module):
    """A network behind ``inputs * scale + offset``, both ``(1, C, 1, 1)``."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, scale: Sequence[float], offset: Sequence[float]) -> None:
        """Take the network as it is, not a copy."""
        super().__init__()
        self.network = network
        known = next(network.parameters())
        self.register_buffer("scale", known.new_tensor(scale).view(1, -1, 1, 1))
        self.register_buffer("offset", known.new_tensor(offset).view(1, -1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's answer."""
        answer: Tensor = self.network(inputs * self.scale + self.offset)
        return answer


def usual_units(teacher: Teacher, method: str) -> Units:
    """Return the teacher for inputs of unit variance: itself, where its own have about that.

    A generator's dreams are never gray: it has colors of its own.
    """
    spec = teacher.spec
    told = remembered_inputs(teacher.network, spec.image_shape)
    remembered = told or _supposed(spec)
    spread = remembered.spread / _USUAL
    is_usual = 1 / _MOST <= spread <= _MOST
    is_gray = method != "generator" and remembered.is_gray(spec.mean, spec.std)
    if is_usual and not is_gray:
        return Units(teacher=teacher)
    mean = [m + s * a for m, s, a in zip(spec.mean, spec.std, remembered.mean, strict=True)]
    std = [s * spread for s in spec.std]
    if is_gray:
        mean, std = [sum(mean) / len(mean)] * len(mean), [sum(std) / len(std)] * len(std)
    remarks = ["dreams are gray, as the first BatchNorm remembers no colors"] if is_gray else []
    if not is_usual:
        remarks.append(
            f"inputs have a standard deviation of {remembered.spread:.2g} by "
            f"{'the first BatchNorm' if told else 'mean and std'}: dreams are moved in units of "
            "that"
        )
    return Units(teacher=rescaled(teacher, mean, std), is_gray=is_gray, remarks=tuple(remarks))


def _supposed(spec: TeacherSpec) -> Remembered:
    """Return what inputs are like if pixels are those of photographs, as mean and std say."""
    usual = math.exp(sum(map(math.log, spec.std)) / len(spec.std))
    mean = tuple((USUAL_MEAN - m) / s for m, s in zip(spec.mean, spec.std, strict=True))
    return Remembered(mean=mean, spread=USUAL_SPREAD / usual)


def rescaled(teacher: Teacher, mean: Sequence[float], std: Sequence[float]) -> Teacher:
    """Return the teacher for inputs that were normalised with another mean and std."""
    spec = teacher.spec
    scale = [new / old for new, old in zip(std, spec.std, strict=True)]
    offset = [(n - m) / s for n, m, s in zip(mean, spec.mean, spec.std, strict=True)]
    return Teacher(
        network=Rescaled(teacher.network, scale, offset),
        spec=dataclasses.replace(spec, mean=tuple(mean), std=tuple(std)),
    )
