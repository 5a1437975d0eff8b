"""Does a network as it was built give its BatchNorm layers what they remember?

Padding, strides and activations have no tensors: networks that compute something else can have the
same. But each BatchNorm remembers what went into it when the network was trained, and the layers
before it, rebuilt, should give it about that, of any images that vary as natural ones do. Drawn
scenes do: of seven checkpoints the right network was 3 to 11 times as near as its rival
(``benchmarks/misfits.py``).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.hooks import on_input
from shared.input_scale import CONVENTIONS, USUAL_MEAN, Convention, remembered_inputs
from shared.scenes import draw_scenes

NUM_IMAGES = 32
_MOST_PIXELS = 2**19  # of all images
CLEARLY = 1.5  # a distance smaller by this factor tells networks apart
FAR = 3.0  # and by this one ways to scale pixels
_SPREAD = 0.25  # of the pixels of photographs, in [0, 1]


def misfit(network: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Return how far what BatchNorm layers get of drawn scenes is from what they remember.

    The Kullback-Leibler divergence of one Gaussian per channel from another, the mean over the
    channels of a layer, the median over layers: 0 for the same; infinite where it cannot be told.

    Args:
        network: In evaluation mode, on the CPU.
        image_shape: ``(C, H, W)`` of its inputs.
    """
    num_images = min(NUM_IMAGES, _MOST_PIXELS // (image_shape[1] * image_shape[2]))
    if num_images < 2 or not _norms_that_remember(network):
        return math.inf
    inputs = draw_scenes(num_images, image_shape, torch.Generator().manual_seed(0))
    try:
        remembered = remembered_inputs(network, image_shape)
        if remembered is not None:
            mean = torch.tensor(remembered.mean).view(1, -1, 1, 1)
            inputs = mean + remembered.spread * inputs
            return _distance(network, inputs)
        # How its inputs were scaled is as unknown as the rest: the best way counts.
        ways = [each for _, each in _by_convention(network, inputs)]
        return min([_distance(network, inputs), *ways])
    except Exception:  # noqa: BLE001  whatever a forward raises that images of this shape do not suit
        return math.inf


def convention_that_fits(
    network: nn.Module,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Convention | None:
    """Return the way to scale pixels by which BatchNorm layers get what they remember.

    For networks whose first BatchNorm does not say it by itself (:func:`remembered_inputs`), since
    an activation, or nothing, stands before it.

    Args:
        network: In evaluation mode, on the CPU.
        image_shape: ``(C, H, W)`` of its inputs, which it takes, as has been tried.
        mean: Per channel, for pixels in [0, 1]: what would be assumed.
        std: Likewise.

    Returns:
        None where no convention is better than ``mean`` and ``std`` by :data:`FAR`.
    """
    num_images = min(NUM_IMAGES, _MOST_PIXELS // (image_shape[1] * image_shape[2]))
    if min(std) <= 0:  # which is refused elsewhere
        return None
    if num_images < 2 or not _norms_that_remember(network):
        return None
    scenes = draw_scenes(num_images, image_shape, torch.Generator().manual_seed(0))
    best, least = min(_by_convention(network, scenes), key=lambda pair: pair[1])
    shift, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return best if least * FAR < _distance(network, (_pixels(scenes) - shift) / scale) else None


def _by_convention(network: nn.Module, scenes: Tensor) -> list[tuple[Convention, float]]:
    pixels = _pixels(scenes)
    return [(each, _distance(network, (pixels - each.mean) / each.std)) for each in CONVENTIONS]


def _pixels(scenes: Tensor) -> Tensor:
    return (USUAL_MEAN + _SPREAD * scenes).clamp(0, 1)


def _distance(network: nn.Module, inputs: Tensor) -> float:
    distances: list[Tensor] = []
    with torch.no_grad(), _watched(network, distances):
        network(inputs)
    found = float(torch.stack(distances).median()) if distances else math.inf
    return found if math.isfinite(found) else math.inf


@contextmanager
def _watched(network: nn.Module, distances: list[Tensor]) -> Iterator[None]:
    """Within the block, every BatchNorm adds its input's distance to the list."""

    def see(module: nn.Module, given: Tensor) -> None:
        if given.ndim < 2 or given.shape[1] != len(module.running_mean):  # type: ignore[arg-type]
            return  # of a class that turns its input first
        values = given.float()
        others = [0, *range(2, values.ndim)]
        assert isinstance(module.running_mean, Tensor)
        assert isinstance(module.running_var, Tensor)
        known = module.running_var + module.eps  # type: ignore[operator]
        ratio = (values.var(others, correction=0) + 1e-12) / known
        offset = (values.mean(others) - module.running_mean).square() / known
        distances.append((ratio - 1 - ratio.log() + offset).mean() / 2)

    handles = [on_input(norm, partial(see, norm)) for norm in _norms_that_remember(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norms_that_remember(network: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers that have seen images."""
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm)
        and isinstance(module.running_mean, Tensor)
        and bool(module.running_mean.any())
    ]
