"""Where dreams start: drawn scenes of overlapping things, no two of one kind.

Natural images differ from each other in many ways: in what lies where, how large, how rough and of
which color. BatchNorm has no say in it, as it sees sums over the batch, so dreams go on differing
in what they differed in at the start. Of noise of one kind that is brightness and contrast; in a
layer's features they have down to half the dimensions that photographs have
(benchmarks/dream_statistics.py), and students miss them. These scenes are the dead leaves of Lee,
Mumford and Huang 2001 (doi:10.1023/A:1011109015675), things at all distances that hide each
other, with the textures that Baradad et al. 2021 (arXiv:2106.05963) found to matter where networks
learn from drawn images. Nothing is learned or stored; the constants were set by hand, so that a
ResNet-20's features of scenes vary about as those of CIFAR-10's training images do.
"""

import math

import torch
from torch import Tensor

from shared.natural import NaturalBasis, color_axes

NUM_THINGS = 14  # one over another, before a background
SMALLEST, LARGEST = 0.06, 1.0  # radii, of the longer side
SHARE_OF_ELLIPSES = 0.6  # the others are rectangles
ASPECT_SPREAD = 0.4  # standard deviations of logarithms
SOFTNESS_SPREAD = 0.5
ROUGHNESS_SPREAD = 0.7
CONTRAST_SPREAD = 0.3
EDGE = 0.6  # pixels over which a thing ends, before its spread
COLOR, SHADE, ROUGHNESS = 0.9, 0.8, 0.35  # standard deviations
NUM_TEXTURES = 4  # of an image; its things take turns
STEEPER, SLOPE_SPREAD = 0.25, 0.3  # of amplitude over frequency, beyond 1/f
ANISOTROPY_SPREAD = 0.5  # of the logarithm of amplitude along and across


def draw_scenes(
    num_images: int, image_shape: tuple[int, int, int], draws: torch.Generator
) -> Tensor:
    """Return float32 scenes ``(N, C, H, W)`` in normalised input units, unit variance overall.

    Sizes of things follow ``r^-3``, so that scenes look alike at all distances; each has its
    color, a gradient of light, a texture and an edge of its own.
    """
    channels, height, width = image_shape
    axes = color_axes(channels)
    side = max(height, width)
    vertical = ((torch.arange(height) + 0.5 - height / 2) / side).view(1, height, 1)
    horizontal = ((torch.arange(width) + 0.5 - width / 2) / side).view(1, 1, width)
    textures = [_textures(num_images, image_shape, draws) for _ in range(NUM_TEXTURES)]

    def normal() -> Tensor:
        return torch.randn(num_images, 1, 1, generator=draws)

    def uniform() -> Tensor:
        return torch.rand(num_images, 1, 1, generator=draws)

    def color() -> Tensor:
        mixed = torch.randn(num_images, channels, generator=draws) @ axes.T
        return mixed.view(num_images, channels, 1, 1) * COLOR

    def surface(number: int) -> Tensor:
        roughness = ROUGHNESS * torch.exp(ROUGHNESS_SPREAD * normal()).unsqueeze(1)
        return color() + textures[number % NUM_TEXTURES] * roughness

    scene = surface(0)
    for number in range(1, NUM_THINGS + 1):
        radius = (SMALLEST**-2 - uniform() * (SMALLEST**-2 - LARGEST**-2)).rsqrt()
        aspect, angle = torch.exp(ASPECT_SPREAD * normal()), math.pi * uniform()
        down = vertical - (uniform() - 0.5) * (1.1 * height / side)
        right = horizontal - (uniform() - 0.5) * (1.1 * width / side)
        along = (right * angle.cos() + down * angle.sin()) / (radius * aspect)
        across = (down * angle.cos() - right * angle.sin()) / (radius / aspect)
        ellipse = uniform() < SHARE_OF_ELLIPSES
        distance = torch.where(
            ellipse, torch.hypot(along, across), torch.maximum(along.abs(), across.abs())
        )
        edge = EDGE / side * torch.exp(SOFTNESS_SPREAD * normal())
        there = torch.sigmoid((1 - distance) * radius / edge).unsqueeze(1)
        light = SHADE * (down * normal() + right * normal()).unsqueeze(1)
        scene = torch.lerp(scene, surface(number) + light, there)
    means = scene.mean((2, 3), keepdim=True)
    contrast = torch.exp(CONTRAST_SPREAD * normal() - CONTRAST_SPREAD**2).unsqueeze(1)
    scene = means + (scene - means) * contrast
    return scene / scene.std(correction=0).clamp_min(1e-12)


def _textures(num_images: int, image_shape: tuple[int, int, int], draws: torch.Generator) -> Tensor:
    """Return noise ``(N, C, H, W)`` of mean 0 and variance 1, each of its own slope and grain."""
    _, height, width = image_shape
    basis = NaturalBasis(image_shape, torch.device("cpu"))
    vertical = (torch.arange(height) / height).view(1, height, 1)
    horizontal = (torch.arange(width) / width).view(1, 1, width)
    frequency = torch.hypot(vertical, horizontal)
    frequency[:, 0, 0] = 1

    def normal() -> Tensor:
        return torch.randn(num_images, 1, 1, generator=draws)

    grain = math.pi / 2 * torch.rand(num_images, 1, 1, generator=draws)
    direction = torch.cos(2 * (torch.atan2(vertical, horizontal) - grain))
    slope = SLOPE_SPREAD * normal() - STEEPER
    gain = frequency**slope * torch.exp(ANISOTROPY_SPREAD * normal() * direction)
    gain[:, 0, 0] = 0
    power = (basis.amplitudes * gain).square().mean((1, 2), keepdim=True)
    gain = gain * power.clamp_min(1e-12).rsqrt()
    return basis.inputs(torch.randn(num_images, *image_shape, generator=draws) * gain.unsqueeze(1))
