"""Pixels at every border: uint8 images, float pixels in [0, 1], and pictures people look at."""

import torch
from torch import Tensor


def to_pixels(images: Tensor) -> Tensor:
    """Return float32 pixels in [0, 1] of uint8 images of any shape."""
    return images.to(torch.float32).div_(255)


def to_images(pixels: Tensor) -> Tensor:
    """Return uint8 images of float pixels, clamped to [0, 1] and rounded to the nearest level.

    ``to_images(to_pixels(images))`` is ``images``, exactly.
    """
    return pixels.clamp(0, 1).mul(255).round_().to(torch.uint8)
