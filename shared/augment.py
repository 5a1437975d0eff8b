"""Random changes that keep an image's class, per sample, on the images' device, uint8 in and out.

Draws come from a CPU generator, so that they are the same on every device. Nothing here loops over
samples.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from shared.device import to_device


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: uint8 ``(N, C, H, W)``, any device.
        generator: On the CPU; N draws are taken.

    Returns:
        New images of the same shape, dtype and device.
    """
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(_column(chosen, images), images.flip(3), images)


def random_shift(
    images: Tensor, padding: int, generator: torch.Generator, *, reflect: bool = False
) -> Tensor:
    """Shift each image by up to ``padding`` pixels each way and axis: pad, then crop at random.

    As for CIFAR in He et al. 2016 (arXiv:1512.03385), section 4.2.

    Args:
        images: uint8 ``(N, C, H, W)``, any device.
        padding: Pixels, at least 0; with ``reflect`` less than H and W.
        generator: On the CPU; 2 N draws are taken.
        reflect: Fill what comes into view with the mirrored image instead of black.

    Returns:
        New images of the same shape, dtype and device.
    """
    num_images, channels, height, width = images.shape
    offsets = torch.randint(0, 2 * padding + 1, (2, num_images), generator=generator)
    if reflect:
        # float16 holds 0 to 255 exactly; padding by reflection is not implemented for uint8.
        framed = pad(images.half(), (padding,) * 4, mode="reflect").to(torch.uint8)
    else:
        framed = pad(images, (padding,) * 4)
    down, right = to_device(offsets, images.device)
    framed_height, framed_width = framed.shape[2:]
    # Where each row of the result begins in the framed images, pixel by pixel: (N, C, H).
    planes = torch.arange(num_images * channels, device=images.device) * framed_height
    lines = down[:, None, None] + torch.arange(height, device=images.device)
    begins = (planes.view(num_images, channels, 1) + lines) * framed_width + right[:, None, None]
    # Every window of W pixels, as a view; copying whole rows is far cheaper than gathering pixels.
    flat = framed.contiguous().view(-1)
    windows = flat.as_strided((flat.numel() - width + 1, width), (1, 1))
    return windows.index_select(0, begins.view(-1)).view(images.shape)


def cutmix(images: Tensor, generator: torch.Generator) -> Tensor:
    """Paste a box of a random partner into each image: Yun et al. 2019 (arXiv:1905.04899).

    The box is the same in the whole batch, its area a fraction ``1 - lambda`` of the image (less
    where it is cut off at the border), with lambda from Beta(1, 1), the uniform distribution.
    Unlike the paper: labels are not mixed; the teacher answers to the mixed images.

    Args:
        images: uint8 ``(N, C, H, W)``, any device.
        generator: On the CPU; N + 3 draws are taken.

    Returns:
        New images of the same shape, dtype and device.
    """
    _, _, height, width = images.shape
    partners = torch.randperm(len(images), generator=generator)
    keep, down, right = torch.rand(3, generator=generator).tolist()
    side = (1 - keep) ** 0.5
    top, bottom = _extent(down, side, height)
    left, end = _extent(right, side, width)
    mixed = images.clone()
    box = images[:, :, top:bottom, left:end]
    mixed[:, :, top:bottom, left:end] = box[to_device(partners, images.device)]
    return mixed


def mixup(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blend each image with a random partner: Zhang et al. 2018 (arXiv:1710.09412).

    Each pair has its own weight, from Beta(1, 1), the uniform distribution. Unlike the paper:
    labels are not mixed; the teacher answers to the mixed images.

    Args:
        images: uint8 ``(N, C, H, W)``, any device.
        generator: On the CPU; 2 N draws are taken.

    Returns:
        New images of the same shape, dtype and device.
    """
    partners = to_device(torch.randperm(len(images), generator=generator), images.device)
    share = _column(torch.rand(len(images), generator=generator), images)
    pixels = images.float()
    return torch.lerp(pixels[partners], pixels, share).round_().to(torch.uint8)


def cutmix_or_mixup(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mix every other image by CutMix and the rest by mixup, with partners from the whole batch.

    Args:
        images: uint8 ``(N, C, H, W)``, any device, in random order.
        generator: On the CPU; 3 N + 3 draws are taken.

    Returns:
        New images of the same shape, dtype and device.
    """
    pasted, blended = cutmix(images, generator), mixup(images, generator)
    return torch.where(_column(torch.arange(len(images)) % 2 == 0, images), pasted, blended)


def _extent(center: float, side: float, length: int) -> tuple[int, int]:
    """Return where a box begins and ends on an axis, of which the rest are fractions."""
    middle, half = int(center * length), int(side * length) // 2
    return max(middle - half, 0), min(middle + half, length)


def _column(values: Tensor, images: Tensor) -> Tensor:
    return to_device(values, images.device)[:, None, None, None]
