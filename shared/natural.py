"""Coordinates in which natural images are uncorrelated: cosines over space, brightness and colors.

The amplitude of natural images falls as one over the frequency (Field 1987), their color channels
rise and fall together, and they differ from each other in brightness and contrast. A number that
is moved by a step of usual size in these coordinates moves the image the way images differ; moved
pixel by pixel it collects high frequencies and colors that no image has and no BatchNorm notices,
since a first layer of few filters is blind to them. That is the decorrelated space of Olah et al.
2017 (doi:10.23915/distill.00007), with cosines (DCT-II) for their Fourier basis: real, orthonormal,
and without joining the left border to the right one.
"""

import math

import torch
from torch import Tensor

# Of the variance of pixels over many images: a look at photographs, no more, and set where single
# trials went well (benchmarks/RESULTS.md). CIFAR-10 has 0.3, 0.08 and 0.3.
BETWEEN_IMAGES = 0.1  # share of the brightness and tint of whole images
CHROMA = 0.1  # share of what is not common to all three channels
CONTRAST_SPREAD = 0.5  # standard deviation of the logarithm of an image's contrast


class NaturalBasis:
    """The change of coordinates for images of one shape, both ways.

    Coefficients are ``(N, C, H, W)`` like inputs: by color, vertical and horizontal frequency. Of
    independent coefficients of variance 1 come inputs whose pixels have variance 1.

    Attributes:
        amplitudes: float32 ``(H, W)``; what coefficients are multiplied with, mean square 1.

    Args:
        image_shape: ``(C, H, W)``. Channels are decorrelated if there are three.
        device: Where coefficients and inputs are.
        gray: All channels are equal: there is brightness alone, and the other coefficients, which
            stay, are worth nothing.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], device: torch.device, *, gray: bool = False
    ) -> None:
        channels, height, width = image_shape
        self._vertical = _cosines(height).to(device)
        self._horizontal = _cosines(width).to(device)
        self.amplitudes = _amplitudes(height, width).to(device)
        colors = _gray_axes(channels) if gray else color_axes(channels)
        self._colors = colors.to(device)
        # Of gray ones the mean over the channels; else the inverse.
        inverse = torch.linalg.pinv(colors) if gray else torch.linalg.inv(colors)
        self._to_axes = inverse.to(device)

    def inputs(self, coefficients: Tensor) -> Tensor:
        """Return float32 inputs ``(N, C, H, W)`` of their coefficients."""
        mixed = self._mix(coefficients * self.amplitudes, self._colors)
        return self._vertical.T @ mixed @ self._horizontal

    def coefficients(self, inputs: Tensor) -> Tensor:
        """Return the coefficients ``(N, C, H, W)`` of inputs, the inverse of :meth:`inputs`."""
        spectrum = self._vertical @ inputs @ self._horizontal.T
        return self._mix(spectrum, self._to_axes) / self.amplitudes

    def gradient(self, of_inputs: Tensor) -> Tensor:
        """Return the gradient with respect to the coefficients, given that to the inputs."""
        spectrum = self._vertical @ of_inputs @ self._horizontal.T
        return self._mix(spectrum, self._colors.T) * self.amplitudes

    def _mix(self, planes: Tensor, matrix: Tensor) -> Tensor:
        if len(matrix) == 1:
            return planes
        return (matrix @ planes.flatten(2)).view_as(planes)


def natural_noise(
    num_images: int, image_shape: tuple[int, int, int], draws: torch.Generator
) -> Tensor:
    """Return float32 noise ``(N, C, H, W)`` with the moments of natural images, no more.

    Brightness, tint and contrast differ from image to image. Where all images of a batch share
    one contrast, they go on sharing it: BatchNorm sees sums over the batch.
    """
    coefficients = torch.randn(num_images, *image_shape, generator=draws)
    spread = CONTRAST_SPREAD
    # exp(s n - s^2) has a mean square of 1, so that the noise keeps its variance.
    contrast = torch.exp(spread * torch.randn(num_images, generator=draws) - spread**2)
    brightness = coefficients[:, :, :1, :1].clone()
    coefficients *= contrast.view(-1, 1, 1, 1)
    coefficients[:, :, :1, :1] = brightness
    return NaturalBasis(image_shape, torch.device("cpu")).inputs(coefficients)


def _cosines(size: int) -> Tensor:
    """Return the orthonormal DCT-II of ``size`` values: float32, a row for each frequency."""
    places = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (places + 0.5) * places.unsqueeze(1))
    waves[0] /= math.sqrt(2)
    return (waves * math.sqrt(2 / size)).float()


def _amplitudes(height: int, width: int) -> Tensor:
    """Return the standard deviation of each coefficient: float32 ``(H, W)``, mean square 1."""
    vertical = torch.arange(height, dtype=torch.float64).unsqueeze(1) / height
    frequency = torch.hypot(vertical, torch.arange(width, dtype=torch.float64) / width)
    frequency[0, 0] = torch.inf
    power = frequency**-2
    power *= (1 - BETWEEN_IMAGES) * height * width / power.sum().clamp_min(1e-12)
    power[0, 0] = BETWEEN_IMAGES * height * width
    return power.sqrt().float()


def color_axes(channels: int) -> Tensor:
    """Return the matrix from brightness and two colors to three channels; else the identity."""
    if channels != 3:
        return torch.eye(channels)
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    axes = axes / torch.linalg.vector_norm(axes, dim=1, keepdim=True)
    variances = torch.tensor([1 - CHROMA, CHROMA / 2, CHROMA / 2]) * channels
    return axes.T * variances.sqrt()


def _gray_axes(channels: int) -> Tensor:
    axes = torch.zeros(channels, channels)
    axes[:, 0] = 1
    return axes
