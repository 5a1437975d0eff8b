"""How far the student's features are from the teacher's, layer by layer.

A pruned copy has the teacher's layers, so what every layer takes in can be compared one to one:
thousands of numbers per image instead of a handful of logits, and they ask less of the images,
which need not be like real ones as a whole if their parts are. After FitNets (Romero et al. 2015,
arXiv:1412.6550), without the regressor between networks of different widths, and at all layers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from shared.hooks import on_input

Key = tuple[str, int]  # a layer, and which of its calls
LEAST_VARIANCE = 1e-12  # of features that never change


@contextmanager
def features_of(network: nn.Module) -> Iterator[dict[Key, Tensor]]:
    """Collect what convolutions and linear layers of ``network`` take in within the block.

    A tensor that several layers take is there once, under the first of them; inputs of the network
    itself are not there. Hooks last as long as the block: copies of the network never have them.
    """
    features: dict[Key, Tensor] = {}
    seen: set[int] = set()
    images: list[Tensor] = []  # kept, so that no other tensor takes its identity

    def see_images(given: Tensor) -> None:
        images.append(given)
        seen.add(id(given))

    def see(name: str, given: Tensor) -> None:
        if id(given) not in seen:
            seen.add(id(given))
            call = sum(other == name for other, _ in features)
            features[name, call] = given

    handles = [on_input(network, see_images)]
    handles += [
        on_input(module, partial(see, name))
        for name, module in network.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear))
    ]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def feature_scales(*views: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """Return one over the variance of each layer's features: the mean of its channels' variances.

    Args:
        views: Features of a whole batch, ``(N, C, ...)`` each: the teacher's, and others whose
            variance counts where it is larger. A student whose BatchNorm uses the statistics of the
            batch may be far from a teacher whose remembered ones let hardly anything through.

    Returns:
        Float32 scalars on the features' device, of the layers that are in all views.
    """
    first, *others = views
    scales = {}
    for key in first:
        if all(key in view for view in others):
            variance = torch.stack([_variance(view[key]) for view in views]).amax()
            scales[key] = 1 / variance.clamp_min(LEAST_VARIANCE)
    return scales


def feature_distance(
    features: Mapping[Key, Tensor],
    targets: Mapping[Key, Tensor],
    scales: Mapping[Key, Tensor],
) -> Tensor:
    """Return the mean over the layers of the share of the features that the student misses.

    Args:
        features: The student's; gradients flow into them.
        targets: The teacher's, of the same images.
        scales: Of :func:`feature_scales`; layers without one do not count.

    Returns:
        A float32 scalar, at least 0: 0 where all features are equal, 1 where the student's are as
        far off as those that say nothing but the mean.

    Raises:
        ValueError: If no layer is in all three.
    """
    distances = [
        _SquaredDistance.apply(features[key], targets[key]) * (scale / targets[key].numel())
        for key, scale in scales.items()
        if key in features and key in targets
    ]
    if not distances:
        raise ValueError("student and teacher have no layer in common")
    return torch.stack(distances).mean()


def _variance(tensor: Tensor) -> Tensor:
    channels = tensor.float().transpose(0, 1).flatten(1) if tensor.dim() > 1 else tensor[None]
    return channels.var(1, correction=0).mean()


class _SquaredDistance(torch.autograd.Function):
    """``||a - b||^2`` in float32 of tensors of any float dtype; ``b`` gets no gradient.

    Features are large and their dtype is that of the convolutions: the difference is written once
    and read twice, and nothing is copied into float32. The norm adds up in float32; rounding it to
    the dtype changes the number that is reported, by 0.4 % at most, and not the gradient.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b.to(a.dtype)
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference).float().square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (2 * gradients[0]), None
