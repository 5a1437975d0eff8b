"""Where dreams start, what they are to become, and how they are moved between steps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamforge.config import SynthesisConfig
from dreamforge.natural import natural_noise
from dreamforge.scenes import draw_scenes
from shared.device import to_device
from shared.seeding import generator


def initial_inputs(
    kind: str, num_images: int, image_shape: tuple[int, int, int], draws: torch.Generator
) -> Tensor:
    """Return float32 ``(N, C, H, W)`` in normalised input units, unit variance overall.

    ``scenes``: see :func:`dreamforge.scenes.draw_scenes`. ``natural``: see
    :func:`dreamforge.natural.natural_noise`. ``white``: independent normal values (Yin et al.
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
    """How the inputs of one batch are moved before every step, so that no place is special.

    ``roll``: the whole batch is rolled and mirrored together, one draw per step (Yin et al. 2020).
    ``crop``: every image by itself is padded with black, cropped and mirrored, as networks for
    small images are trained (He et al. 2016, arXiv:1512.03385, section 4.2). Their BatchNorm
    remembers the black that came into view; where it does not come from here, dreams grow dark
    frames to make up for it.

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
        self._low = low
        self._rolls: list[tuple[int, ...]] = []
        if config.jitter_kind != "crop":
            self._rolls = jitters(steps, self._reach, draws, flip=config.flip)
            return
        offsets = torch.randint(0, 2 * self._reach + 1, (steps, 2, num_images), generator=draws)
        flips = torch.randint(0, 2, (steps, 1, num_images), generator=draws) * int(config.flip)
        self._crops = to_device(torch.cat([offsets, flips], dim=1), low.device)

    def __call__(self, inputs: Tensor, step: int) -> Tensor:
        """Return float32 ``(N, C, H, W)`` as step ``step`` sees them; gradients flow back."""
        if self._rolls:
            return move(inputs, *self._rolls[step])
        return crop(inputs, self._crops[step], self._reach, self._low)


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
