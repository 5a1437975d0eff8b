"""A small convolutional network that makes images from random numbers and classes.

What Fang et al. 2022 (arXiv:2112.06253) optimise in place of pixels: neighbouring pixels and the
images of one batch share weights, so that a few steps move all of them.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from shared.architectures import build_skeleton
from shared.seeding import generator

BASE_SIDE = 8  # pixels that the coarse maps have about; each stage doubles them
MAX_WIDENING = 4  # the first stages of large images have at most this many times the width
SLOPE = 0.2  # of the leaky ReLUs, as in the paper's network


class ImageGenerator(nn.Module):
    """Latents and targets in, pixels out.

    A linear layer makes coarse maps, each stage doubles their sides (nearest neighbour, then a 3x3
    convolution), and the last convolution makes the channels. Every stage costs about the same:
    half the channels where there are four times the pixels. Opposite borders meet, as they do when
    images are rolled; zeros around them would leave a frame.

    Unlike the paper's, it is told the class, so that what makes a class is learned once and not
    found again for every image. What keeps it from making one image per class is
    :func:`likeness`.

    BatchNorms always use the batch they see: there are no buffers, the parameters are all.

    Args:
        image_shape: ``(C, H, W)``; any sides, also unequal ones.
        num_classes: How many targets there are.
        latent_size: Random numbers per image.
        width: Channels before the last stage; it has half of them.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        latent_size: int,
        width: int,
    ) -> None:
        super().__init__()
        channels, *size = image_shape
        sides = stage_sides(*size)
        widths = stage_widths(width, len(sides))
        self._coarse = (widths[0], *sides[0])
        self.classes = nn.Embedding(num_classes, latent_size)
        self.project = nn.Linear(2 * latent_size, math.prod(self._coarse), bias=False)
        self.norm = nn.BatchNorm2d(widths[0], track_running_stats=False)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Upsample(size=side),
                    _Wrap(),
                    nn.Conv2d(before, after, 3, bias=False),
                    nn.BatchNorm2d(after, track_running_stats=False),
                    nn.LeakyReLU(SLOPE),
                )
                for side, (before, after) in zip(sides[1:], pairwise(widths), strict=True)
            )
        )
        self.pixels = nn.Sequential(_Wrap(), nn.Conv2d(widths[-1], channels, 3))

    def forward(self, latents: Tensor, targets: Tensor) -> Tensor:
        """Return float32 pixels ``(N, C, H, W)`` in [0, 1].

        Args:
            latents: float32 ``(N, latent_size)``, about normal.
            targets: int64 ``(N,)``.
        """
        known = torch.cat([latents, self.classes(targets)], dim=1)
        maps = self.project(known).view(-1, *self._coarse)
        maps = self.norm(maps.contiguous(memory_format=torch.channels_last))
        return self.pixels(self.stages(maps)).float().sigmoid()


def initial_generator(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    latent_size: int,
    width: int,
    seed: int,
) -> ImageGenerator:
    """Return a generator on the CPU whose weights depend on the arguments alone.

    All layers keep the variance of what they see (He et al. 2015, arXiv:1502.01852); class
    embeddings are drawn like latents.
    """
    network: nn.Module = build_skeleton(
        lambda: ImageGenerator(image_shape, num_classes, latent_size=latent_size, width=width)
    )
    network = network.to_empty(device="cpu")
    assert isinstance(network, ImageGenerator)
    draws = generator(seed, "generator")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, SLOPE, generator=draws)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=draws)
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
