"""What inversion moves: the pixels themselves, or their coordinates among natural images.

Either way the network sees inputs within the range of pixels, and Adam sees one tensor.
"""

from typing import Protocol

import torch
from torch import Tensor

from shared.natural import NaturalBasis


class Canvas(Protocol):
    """A batch of inputs while it is optimised.

    Attributes:
        parameters: Float32; what the optimizer moves.
    """

    parameters: Tensor

    def inputs(self) -> Tensor:
        """Return the inputs now: float32 ``(N, C, H, W)``, contiguous, within the range."""

    def gradient(self, of_inputs: Tensor) -> Tensor:
        """Return the gradient of the parameters, contiguous, given that of the last inputs."""

    def confine(self) -> None:
        """Bring the parameters back into their range after a step."""


class PixelCanvas:
    """The inputs themselves, clamped after every step.

    Args:
        start: Float32 ``(N, C, H, W)`` in normalised units.
        low: Smallest inputs, ``(1, C, 1, 1)``.
        high: Largest inputs, likewise.
        gray: Keep all channels equal.
    """

    def __init__(self, start: Tensor, low: Tensor, high: Tensor, *, gray: bool = False) -> None:
        self._low, self._high, self._gray = low, high, gray
        self.parameters = self._kept(start).clamp(low, high).contiguous()

    def inputs(self) -> Tensor:
        """Return the parameters."""
        return self.parameters

    def gradient(self, of_inputs: Tensor) -> Tensor:
        """Return the gradient in the layout of the parameters."""
        return self._kept(of_inputs).contiguous()

    def confine(self) -> None:
        """Clamp."""
        self.parameters.clamp_(self._low, self._high)

    def _kept(self, values: Tensor) -> Tensor:
        return values.mean(1, keepdim=True).expand_as(values) if self._gray else values


class NaturalCanvas:
    """Coefficients of :class:`shared.natural.NaturalBasis`, whose inputs are clamped.

    Clamping passes gradients on (straight through), except those that would push a pixel further
    out: with them, images drift into black and white.

    Args:
        start: Float32 ``(N, C, H, W)`` in normalised units.
        low: Smallest inputs, ``(1, C, 1, 1)``.
        high: Largest inputs, likewise.
        gray: Keep all channels equal.
    """

    def __init__(self, start: Tensor, low: Tensor, high: Tensor, *, gray: bool = False) -> None:
        _, channels, height, width = start.shape
        self._basis = NaturalBasis((channels, height, width), start.device, gray=gray)
        self._low, self._high = low, high
        self.parameters = self._basis.coefficients(start).contiguous()
        self._unclamped = start

    def inputs(self) -> Tensor:
        """Return the image of the coefficients, clamped."""
        self._unclamped = self._basis.inputs(self.parameters)
        return self._unclamped.clamp(self._low, self._high).contiguous()

    def gradient(self, of_inputs: Tensor) -> Tensor:
        """Return the gradient of the coefficients; a step goes against it."""
        outward = torch.where(
            of_inputs < 0, self._unclamped > self._high, self._unclamped < self._low
        )
        return self._basis.gradient(of_inputs.masked_fill(outward, 0.0)).contiguous()

    def confine(self) -> None:
        """Nothing to do: it is the inputs that are clamped."""


def make_canvas(
    space: str, start: Tensor, low: Tensor, high: Tensor, *, gray: bool = False
) -> Canvas:
    """Return the canvas of ``--space`` that shows ``start``; with ``gray``, all channels equal."""
    return (NaturalCanvas if space == "natural" else PixelCanvas)(start, low, high, gray=gray)
