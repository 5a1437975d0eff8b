"""Where dreams start, and what they are to become."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamforge.config import SynthesisConfig
from shared.natural import natural_noise
from shared.scenes import draw_scenes
from shared.seeding import generator


def initial_inputs(
    kind: str, num_images: int, image_shape: tuple[int, int, int], draws: torch.Generator
) -> Tensor:
    """Return float32 ``(N, C, H, W)`` in normalised input units, unit variance overall.

    ``scenes``: see :func:`shared.scenes.draw_scenes`. ``natural``: see
    :func:`shared.natural.natural_noise`. ``white``: independent normal values (Yin et al.
    2020). ``pink``: amplitude falling as 1/f, the spectrum of natural images (Field 1987), so that
    large structures are there from the start, without constant offsets.
    """
    if kind == "scenes":
        return draw_scenes(num_images, image_shape, draws)
    if kind == "natural":
        return natural_noise(num_images, image_shape, draws)
    white = torch.randn(num_images, *image_shape, generator=draws)
    if kind == "white":
        return white
    _, height, width = image_shape
    vertical = torch.fft.fftfreq(height).abs().unsqueeze(1)
    frequency = torch.hypot(vertical, torch.fft.rfftfreq(width))  # cycles per pixel
    frequency[0, 0] = torch.inf
    pink = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(height, width))
    return pink / pink.std().clamp_min(1e-12)


def balanced_targets(num_classes: int, seed: int, start: int, stop: int) -> Tensor:
    """Return int64 targets of dreams ``start`` to ``stop``: every class equally often.

    The set is a sequence of cycles, each a permutation of all classes, so that class counts
    differ by at most one over the whole set, and a batch holds a random mixture.
    """
    first, last = start // num_classes, -(-stop // num_classes)
    cycles = [
        torch.randperm(num_classes, generator=generator(seed, "targets", cycle))
        for cycle in range(first, last)
    ]
    offset = first * num_classes
    return torch.cat(cycles)[start - offset : stop - offset]


def soften(config: SynthesisConfig, targets: Tensor, num_classes: int, batch: int) -> Tensor:
    """Return what the class loss compares with: the targets themselves, or probabilities.

    ``hard``: ``targets``. ``soft``: a share ``config.target_smoothing`` spread evenly over all
    classes (Szegedy et al. 2016, arXiv:1512.00567). ``pairs``: a share ``p``, uniform in
    (1/2, 1], of the target and ``1 - p`` of another class drawn for each image, so that dreams
    lie on both sides of every decision border, near and far.

    Args:
        config: Resolved.
        targets: int64 ``(N,)``, on the CPU.
        num_classes: K.
        batch: Number of the batch, which names the stream of the draws.

    Returns:
        int64 ``(N,)``, or float32 ``(N, K)`` whose rows sum to 1 and are largest at the target.
    """
    if config.targets == "hard":
        return targets
    chosen = F.one_hot(targets, num_classes).float()
    if config.targets == "soft":
        share = config.target_smoothing or 0.0
        return chosen * (1 - share) + share / num_classes
    draws = generator(config.seed, "pairs", batch)
    away = torch.randint(1, max(2, num_classes), targets.shape, generator=draws)
    partners = F.one_hot((targets + away) % num_classes, num_classes).float()
    lesser = torch.rand(len(targets), 1, generator=draws) / 2  # in [0, 1/2)
    return chosen * (1 - lesser) + partners * lesser
