"""How dreams are moved between steps, so that no place in them is special.

Networks have seen images cropped at random, and dreams that hold still, or all move together, are
fitted to the one place where they are looked at.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamforge.config import SynthesisConfig
from shared.device import to_device

ASPECT_RATIO = 4 / 3  # at most, of a resized crop, either way


def jitters(
    steps: int, jitter: int, draws: torch.Generator, *, flip: bool
) -> list[tuple[int, ...]]:
    """Return ``(rows, columns, flipped)`` of every step: the whole batch moves together.

    Drawn at once and on the host, so that no step waits for a random number.
    """
    rolls = torch.randint(-jitter, jitter + 1, (steps, 2), generator=draws)
    flips = torch.randint(0, 2, (steps, 1), generator=draws) * int(flip)
    return [tuple(move) for move in torch.cat([rolls, flips], dim=1).tolist()]


def move(inputs: Tensor, rows: int, columns: int, flipped: int) -> Tensor:
    """Return ``(N, C, H, W)`` rolled by whole pixels, then mirrored left to right if asked."""
    moved = inputs.roll((rows, columns), dims=(2, 3)) if rows or columns else inputs
    return moved.flip(3) if flipped else moved


class Moves:
    """How the inputs of one batch are moved before every step.

    ``roll``: the whole batch is rolled and mirrored together, one draw per step (Yin et al. 2020).
    ``crop``: every image by itself is padded with black, cropped and mirrored, as networks for
    small images are trained (He et al. 2016, arXiv:1512.03385, section 4.2). Their BatchNorm
    remembers the black that came into view; where it does not come from here, dreams grow dark
    frames to make up for it. ``resized-crop``: of every image by itself a part is seen, magnified
    to the whole, and mirrored, as networks for large images are trained (Szegedy et al. 2015,
    arXiv:1409.4842; in inversion: Yin et al. 2023, arXiv:2306.13092). What is seen at many sizes
    and places is less often a pattern that only this network answers to.

    Args:
        config: Resolved.
        num_images: N.
        low: Black, ``(1, C, 1, 1)`` in normalised units, on the inputs' device.
        draws: Gives all moves of all steps now, so that no step waits for a random number.
    """

    def __init__(
        self, config: SynthesisConfig, num_images: int, low: Tensor, draws: torch.Generator
    ) -> None:
        steps, self._reach = config.steps or 1, config.jitter or 0
        self._low, self._kind = low, config.jitter_kind or "roll"
        if self._kind == "roll":
            self._rolls = jitters(steps, self._reach, draws, flip=config.flip)
        elif self._kind == "crop":
            reach = 2 * self._reach + 1
            offsets = torch.randint(0, reach, (steps, 2, num_images), generator=draws)
            flips = _flips(steps, num_images, draws, flip=config.flip)
            self._crops = to_device(torch.cat([offsets, flips], dim=1), low.device)
        else:
            windows = resized_windows(steps, num_images, config.crop_area or 1.0, draws)
            flips = _flips(steps, num_images, draws, flip=config.flip)
            self._windows = to_device(torch.cat([windows, flips], dim=1), low.device)

    def __call__(self, inputs: Tensor, step: int) -> Tensor:
        """Return float32 ``(N, C, H, W)`` as step ``step`` sees them; gradients flow back."""
        if self._kind == "roll":
            return move(inputs, *self._rolls[step])
        if self._kind == "crop":
            return crop(inputs, self._crops[step], self._reach, self._low)
        return resized_crop(inputs, self._windows[step])


def _flips(steps: int, num_images: int, draws: torch.Generator, *, flip: bool) -> Tensor:
    return torch.randint(0, 2, (steps, 1, num_images), generator=draws) * int(flip)


def crop(inputs: Tensor, crops: Tensor, padding: int, low: Tensor) -> Tensor:
    """Return inputs of the same shape, each padded with ``low``, cropped and perhaps mirrored.

    Args:
        inputs: ``(N, C, H, W)``.
        crops: int64 ``(3, N)`` on the same device: the first row and column of each crop, from 0 to
            ``2 * padding``, and whether it is mirrored left to right, 0 or 1.
        padding: Pixels on each side.
        low: ``(1, C, 1, 1)``.
    """
    num_images, channels, height, width = inputs.shape
    framed = F.pad(inputs - low, (padding,) * 4).flatten(2)
    rows, columns, mirrored = crops.unsqueeze(2).unbind()
    across = torch.arange(width, device=inputs.device)
    rows = rows + torch.arange(height, device=inputs.device)  # (N, H)
    columns = columns + torch.where(mirrored.bool(), width - 1 - across, across)  # (N, W)
    places = rows.unsqueeze(2) * (width + 2 * padding) + columns.unsqueeze(1)
    places = places.view(num_images, 1, -1).expand(-1, channels, -1)
    return framed.gather(2, places).view_as(inputs) + low


def resized_windows(
    steps: int, num_images: int, least_area: float, draws: torch.Generator
) -> Tensor:
    """Return float32 ``(steps, 4, N)``: top, left, height and width of crops, as shares of a side.

    Areas are uniform from ``least_area`` to 1, the logarithm of the aspect ratio up to 4 to 3
    either way, places over all that fit: the usual RandomResizedCrop, but that a side which would
    be too long is cut instead of drawn again.
    """
    size = (steps, num_images)
    area = least_area + (1 - least_area) * torch.rand(size, generator=draws)
    ratio = torch.exp((2 * torch.rand(size, generator=draws) - 1) * math.log(ASPECT_RATIO))
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    top = (1 - height) * torch.rand(size, generator=draws)
    left = (1 - width) * torch.rand(size, generator=draws)
    return torch.stack([top, left, height, width], dim=1)


def resized_crop(inputs: Tensor, windows: Tensor) -> Tensor:
    """Return inputs of the same shape: of each a window, magnified bilinearly, perhaps mirrored.

    Two products of matrices, and not ``grid_sample``, whose gradient has other bits every time on
    CUDA.

    Args:
        inputs: float32 ``(N, C, H, W)``.
        windows: float32 ``(5, N)``: top, left, height and width as shares of the image's sides,
            and whether it is mirrored left to right, 0 or 1.
    """
    top, left, height, width, mirrored = windows
    rows = _interpolation(inputs.shape[2], top, height)
    columns = _interpolation(inputs.shape[3], left, width)
    columns = torch.where(mirrored.bool().view(-1, 1, 1), columns.flip(1), columns)
    return rows.unsqueeze(1) @ inputs @ columns.transpose(1, 2).unsqueeze(1)


def _interpolation(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Return ``(N, size, size)``: what each pixel of a magnified window takes of the image's.

    Args:
        size: Pixels of the side.
        start: ``(N,)``, as a share of it.
        length: Likewise.
    """
    pixels = torch.arange(size, device=start.device)
    centers = (start.unsqueeze(1) + (pixels + 0.5) / size * length.unsqueeze(1)) * size - 0.5
    distance = (centers.clamp(0, size - 1).unsqueeze(2) - pixels).abs()
    return (1 - distance).clamp(min=0)
