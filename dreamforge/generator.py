"""A small convolutional network that makes images from random maps and classes.

What Fang et al. 2022 (arXiv:2112.06253) optimise in place of pixels: neighbouring pixels and the
images of one batch share weights, so that a few steps move all of them.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from shared.architectures import build_skeleton
from shared.seeding import generator

BASE_SIDE = 8  # pixels that the random maps have about; each stage doubles them
MAX_WIDENING = 4  # the first stages of large images have at most this many times the width
SLOPE = 0.2  # of the leaky ReLUs, as in the paper's network


class ImageGenerator(nn.Module):
    """Latents and targets in, pixels out.

    Each stage doubles the sides of the random maps (nearest neighbour, then a 3x3 convolution) and
    costs about the same: half the channels where there are four times the pixels.

    Unlike the paper's, it is told the class, so that what makes a class is learned once and not
    found again for every image. Such a generator soon makes one image per class: answers and
    statistics are then right already. Ours cannot: without a fully connected layer, and with
    borders that meet, it does not know where in the image it is, so what is where, only the
    latents can say.

    BatchNorms always use the batch they see: there are no buffers, the parameters are all.

    Args:
        image_shape: ``(C, H, W)``; any sides, also unequal ones.
        num_classes: How many targets there are.
        latent_channels: Random maps per image.
        width: Channels before the last stage; it has half of them.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        latent_channels: int,
        width: int,
    ) -> None:
        super().__init__()
        channels, *size = image_shape
        sides = stage_sides(*size)
        widths = stage_widths(width, len(sides))
        self.latent_shape = (latent_channels, *sides[0])
        self.classes = nn.Embedding(num_classes, widths[0])
        self.first = _convolution(latent_channels, widths[0])
        self.mix = nn.Sequential(*_norm(widths[0]), _convolution(widths[0], widths[0]))
        self.stages = nn.Sequential(
            *_norm(widths[0]),
            *(
                nn.Sequential(nn.Upsample(size=side), _convolution(before, after), *_norm(after))
                for side, (before, after) in zip(sides[1:], pairwise(widths), strict=True)
            ),
        )
        self.pixels = _convolution(widths[-1], channels)
        self.tint = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, latents: Tensor, targets: Tensor) -> Tensor:
        """Return float32 pixels ``(N, C, H, W)`` in [0, 1].

        Args:
            latents: float32 ``(N, *latent_shape)``, about normal.
            targets: int64 ``(N,)``.
        """
        maps = self.first(latents.contiguous(memory_format=torch.channels_last))
        maps = self.mix(maps + self.classes(targets)[:, :, None, None])
        return (self.pixels(self.stages(maps)).float() + self.tint).sigmoid()


def initial_generator(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    latent_channels: int,
    width: int,
    seed: int,
) -> ImageGenerator:
    """Return a generator on the CPU whose weights depend on the arguments alone.

    Convolutions keep the variance of what they see (He et al. 2015, arXiv:1502.01852), and classes
    weigh as much as latents.
    """
    network: nn.Module = build_skeleton(
        lambda: ImageGenerator(
            image_shape, num_classes, latent_channels=latent_channels, width=width
        )
    )
    network = network.to_empty(device="cpu")
    assert isinstance(network, ImageGenerator)
    draws = generator(seed, "generator")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, SLOPE, generator=draws)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (1 + SLOPE**2)), generator=draws)
    nn.init.zeros_(network.tint)
    return network


def stage_sides(height: int, width: int) -> list[tuple[int, int]]:
    """Return ``(height, width)`` of every stage, coarse to fine; sides double, rounded up.

    There are as many doublings as make the shorter of the two about 8 pixels, and at least one.
    """
    doublings = max(1, round(math.log2(min(height, width) / BASE_SIDE)))
    return [
        (-(-height // 2**remaining), -(-width // 2**remaining))
        for remaining in range(doublings, -1, -1)
    ]


def stage_widths(width: int, num_stages: int) -> list[int]:
    """Return the channels of every stage: halves towards the end, the last but one ``width``."""
    before = [width * min(2**left, MAX_WIDENING) for left in range(num_stages - 2, -1, -1)]
    return [*before, max(1, width // 2)]


class _Wrap(nn.Module):
    """Puts around a map what lies at its opposite borders.

    Not ``padding_mode="circular"``: that gives up the channels-last layout.
    """

    def forward(self, maps: Tensor) -> Tensor:
        maps = torch.cat([maps[:, :, -1:], maps, maps[:, :, :1]], dim=2)
        return torch.cat([maps[:, :, :, -1:], maps, maps[:, :, :, :1]], dim=3)


def _convolution(before: int, after: int) -> nn.Module:
    return nn.Sequential(_Wrap(), nn.Conv2d(before, after, 3, bias=False))


def _norm(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels, track_running_stats=False), nn.LeakyReLU(SLOPE)
