"""The scale of a network's inputs, as its first BatchNorm remembers it.

Checkpoints seldom say how their images were normalised, and readme files err. But where a BatchNorm
follows the first convolution, its statistics are those of a known linear map of the training
images: its means tell where the inputs' zero was, channel by channel, and its variances how far the
inputs spread, since natural images share one spectrum (Field 1987). That does not tell ImageNet's
mean and std from CIFAR-10's, which hardly matters, but pixels in [0, 1], in [-1, 1] and in [0, 255]
from normalised ones, which does: an image out of the network's range is another image to it.
"""

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from shared.hooks import on_input, on_output
from shared.natural import natural_noise

NUM_IMAGES = 16
_MOST_PIXELS = 2**20  # of all images; a single one larger than this is not tried
_DEAD = 1e-4  # of the largest variance: filters that see nothing
_MOST_SPREAD = 1.0  # of the logarithms of the filters' scales; trained networks had 0.3 at most
# Standard deviation of the training images' pixels in [0, 1], as it is found: photographs have
# 0.25, and what is found was 0.9 to 1.3 times what there was.
USUAL_SPREAD = 0.3
USUAL_MEAN = 0.45  # of the pixels of photographs
PLAUSIBLE, POSSIBLE = math.log(1.5), math.log(2.5)
IMPLAUSIBLE, FAR_WORSE = math.log(1.8), math.log(3)
_LEAST_CHROMA = 0.3  # trained networks had 0.38 at least for photographs, 0.06 at most for gray
_EQUAL = 0.003  # means of channels of pixels; had 0.04 for photographs, 0.0015 at most for gray
_WARMEST, _TINT = 0.08, 0.03  # of mean red less mean blue: ImageNet has 0.08; and what it may miss


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the inputs of the network's training were like.

    Attributes:
        mean: Per channel, in units of the network's input.
        spread: Their standard deviation over all pixels and images; good to about a third.
        chroma: Of three channels, how much the inputs varied in color, for each unit that they
            varied in brightness: about 0.6 for photographs (1 for :func:`natural_noise`), 0 for
            gray images; None of other numbers of channels.
    """

    mean: tuple[float, ...]
    spread: float
    chroma: float | None = None

    def is_gray(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Tell whether the training images were gray, in three equal channels of pixels."""
        pixels = [a * s + m for a, s, m in zip(self.mean, std, mean, strict=True)]
        equal = max(pixels) - min(pixels) < _EQUAL
        return self.chroma is not None and self.chroma < _LEAST_CHROMA and equal

    def misfit(self, mean: Sequence[float], std: Sequence[float]) -> float:
        """Return by what factor a mean and std explain it badly: 0 for well, its logarithm.

        Infinite where the training images' mean, undone, would lie outside [0, 1].
        """
        pixels = [a * s + m for a, s, m in zip(self.mean, std, mean, strict=True)]
        if not all(0 <= value <= 1 for value in pixels):
            return math.inf
        usual = math.exp(sum(map(math.log, std)) / len(std))
        return abs(math.log(self.spread * usual / USUAL_SPREAD))

    def is_tinted(self, convention: "Convention") -> bool:
        """Tell whether the training images had a blue or very warm mean by a convention.

        Gray images normalised with ImageNet's mean look blue where it is not undone.
        """
        if len(self.mean) != 3:
            return False
        warmth = (self.mean[0] - self.mean[2]) * convention.std
        return not -_TINT <= warmth <= _WARMEST + _TINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """A way to scale pixels that needs no knowledge of the data.

    Attributes:
        words: What the network's inputs are then.
        mean: For pixels in [0, 1], the same for every channel.
        std: Likewise.
    """

    words: str
    mean: float
    std: float


CONVENTIONS = (
    Convention(words="pixels in [0, 1]", mean=0.0, std=1.0),
    Convention(words="pixels in [-1, 1]", mean=0.5, std=0.5),
    Convention(words="pixels from 0 to 255", mean=0.0, std=1 / 255),
)


def better_convention(
    remembered: Remembered | None, mean: Sequence[float], std: Sequence[float]
) -> Convention | None:
    """Return the convention that explains what is remembered, where mean and std do not.

    They must be implausible and the convention plausible, or possible and far better; in doubt
    nothing is better.
    """
    if remembered is None or min(std) <= 0:  # which is refused elsewhere
        return None
    misfit = remembered.misfit(mean, std)
    if misfit < IMPLAUSIBLE:
        return None
    channels = len(remembered.mean)

    def misfit_of(convention: Convention) -> float:
        if remembered.is_tinted(convention):
            return math.inf
        return remembered.misfit((convention.mean,) * channels, (convention.std,) * channels)

    best = min(CONVENTIONS, key=misfit_of)
    least = misfit_of(best)
    is_better = least < PLAUSIBLE or (least < POSSIBLE and misfit - least > FAR_WORSE)
    return best if is_better else None


def remembered_inputs(network: nn.Module, image_shape: tuple[int, int, int]) -> Remembered | None:
    """Return what the first BatchNorm remembers of the inputs, or None where it cannot be told.

    It can where the network begins with a convolution, without anything before it, whose output
    goes into a BatchNorm, and that has seen images.

    Args:
        network: In evaluation mode, on any device; two of its layers are copied to the CPU.
        image_shape: ``(C, H, W)`` that it takes, as has been tried.
    """
    channels, height, width = image_shape
    num_images = min(NUM_IMAGES, _MOST_PIXELS // (height * width))
    layers = first_layers(network, image_shape) if num_images else None
    if layers is None:
        return None
    convolution, norm = (copy.deepcopy(layer).cpu() for layer in layers)
    images = natural_noise(num_images, image_shape, torch.Generator().manual_seed(0))
    flat = torch.eye(channels).view(channels, channels, 1, 1).expand(channels, *image_shape)
    gray = images.mean(1, keepdim=True).expand_as(images)
    with torch.no_grad():
        zero = _channel_means(convolution(torch.zeros(1, *image_shape)))[0]
        gains = (_channel_means(convolution(flat)) - zero).T
        variances, of_gray, of_color = (
            convolution(each).var((0, 2, 3), correction=0).double()
            for each in (images, gray, images - gray)
        )
    known = norm.running_var.double()
    alive = (known > _DEAD * known.max()) & (variances > _DEAD * variances.max())
    alive &= known.isfinite() & norm.running_mean.isfinite()
    if int(alive.sum()) <= channels:
        return None
    known, variances = known[alive], variances[alive]
    weights = known.rsqrt().unsqueeze(1)
    offsets = (norm.running_mean.double() - zero.double())[alive].unsqueeze(1)
    mean = torch.linalg.lstsq(gains[alive].double() * weights, offsets * weights).solution
    # Of the sums, in which filters for low frequencies count most: how sharp images were, as by
    # enlarging them, is seen in the others.
    spread = float((known.sum() / variances.sum()).sqrt())
    values = tuple(float(value) for value in mean.flatten())
    scales = 0.5 * (known / variances).log()
    told = float(scales.std()) < _MOST_SPREAD and all(map(math.isfinite, (spread, *values)))
    if not told:
        return None
    parts = torch.stack([of_gray[alive], of_color[alive]], 1) / known.unsqueeze(1)
    chroma = _chroma(parts) if channels == 3 else None
    return Remembered(mean=values, spread=spread, chroma=chroma)


def _chroma(parts: Tensor) -> float:
    """Return how much of the second column makes a sum of 1, in units of the first."""
    gray, color = torch.linalg.lstsq(parts, parts.new_ones(len(parts), 1)).solution.flatten()
    return float((color / gray.clamp_min(1e-12)).clamp_min(0))


class _SeenEnoughError(Exception):
    """Ends the forward pass at the first BatchNorm."""


def first_layers(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Any, Any] | None:
    """Return the network's first convolution and BatchNorm, where one feeds the other."""
    image = torch.zeros(1, *image_shape, device=next(network.parameters()).device)
    found: dict[str, Any] = {}

    def at_convolution(module: nn.Module, given: Tensor, output: Tensor) -> None:
        if "convolution" not in found and given is image:
            found.update(convolution=module, output=output)

    def at_norm(module: nn.Module, given: Tensor) -> None:
        if found.get("output") is given:
            found["norm"] = module
        raise _SeenEnoughError

    handles = []
    for module in network.modules():
        if isinstance(module, _ConvNd):
            handles.append(on_output(module, partial(at_convolution, module)))
        elif isinstance(module, _BatchNorm):
            handles.append(on_input(module, partial(at_norm, module)))
    try:
        with torch.no_grad(), suppress(_SeenEnoughError):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    norm = found.get("norm")
    # Of all zeros are the means of a network that was never trained.
    has_seen = norm is not None and norm.running_mean is not None and norm.running_mean.any()
    return (found["convolution"], norm) if has_seen else None


def _channel_means(planes: Tensor) -> Tensor:
    return planes.mean((2, 3))
