"""How alike the dreams of one class are, so that they can be kept apart.

A generator that knows the class soon makes one image of each: answers and BatchNorm statistics are
then right already.
"""

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from shared.hooks import on_input
from shared.teacher import batch_norms

LEAST_DISTANCE = 0.05  # in standard deviations; bounds the term where two images are the same


class FeatureTap:
    """Within its ``with`` block, remembers what the network's last BatchNorm saw.

    There, images are described by what is where in them, and no longer by color and contrast.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        self._module: Any = list(batch_norms(network).values())[-1]
        self._seen: Tensor | None = None
        self._handle: Any = None

    def __enter__(self) -> Self:
        self._handle = on_input(self._module, self._see)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()
        self._seen = None

    def take(self) -> Tensor:
        """Return the last forward pass's features, float32 ``(N, ...)``, of unit variance."""
        assert self._seen is not None
        seen, self._seen = self._seen, None
        std = (self._module.running_var + self._module.eps).sqrt()
        return seen.float() / std.view(1, -1, *[1] * (seen.ndim - 2))

    def _see(self, given: Tensor) -> None:
        self._seen = given


def likeness(features: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Return about the inverse distance between images of one class.

    The mode-seeking term of Mao et al. 2019 (arXiv:1903.05628). Unlike there, the latents'
    distance is left out, because it is about the same for all pairs, and each pair counts by
    itself.

    Args:
        features: float32 ``(N, ...)`` of about unit variance; inputs, too.
        pairs: Of images of one class (see :func:`same_class_pairs`).

    Returns:
        A scalar float32, at most ``1 / LEAST_DISTANCE``; 0 if there are no pairs.
    """
    images, partners = pairs
    if len(images) == 0:
        return features.new_zeros(())
    distances = (features[images] - features[partners]).abs().flatten(1).mean(1)
    return (1 / (distances + LEAST_DISTANCE)).mean()


def same_class_pairs(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 ``(P,)`` twice: every image with the next one of its class, if there is one.

    How many there are is known only once ``targets`` (int64 ``(N,)``) are, so the host waits for
    a GPU here: ask once a batch, not once a step.
    """
    order = torch.argsort(targets, stable=True)
    same = targets[order[1:]] == targets[order[:-1]]
    return order[:-1][same], order[1:][same]
