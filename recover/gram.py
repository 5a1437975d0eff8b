"""Sums over many places of what a layer sees and should say: all that least squares needs.

Memory does not grow with the number of images: the sums have the size of the layer.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gram:
    """Means over rows of inputs ``x``, outputs ``y``, ``x x^T`` and ``x y^T``, kept as sums.

    A layer with groups is so many independent layers; others are one group. ``G`` groups, each of
    ``P`` inputs and ``O`` outputs.

    Args:
        num_groups: G.
        num_inputs: P.
        num_outputs: O.
        device: Of the sums.
    """

    def __init__(
        self, num_groups: int, num_inputs: int, num_outputs: int, device: torch.device
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(num_groups, *shape, dtype=torch.float64, device=device)

        self._num_rows = 0
        self._near: tuple[Tensor, Tensor] | None = None
        self._x, self._y = zeros(num_inputs), zeros(num_outputs)
        self._xx, self._xy = zeros(num_inputs, num_inputs), zeros(num_inputs, num_outputs)

    @classmethod
    def of(cls, module: nn.Conv2d | nn.Linear) -> Self:
        """Return empty sums for a layer."""
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        weight = module.weight
        return cls(groups, weight[0].numel(), len(weight) // groups, weight.device)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Count rows in: float ``(G, rows, P)`` and ``(G, rows, O)``.

        Each product is computed in the dtype of the inputs and added up in float64.
        """
        if self._near is None:
            self._near = inputs.mean(1), outputs.mean(1)
        # Around a mean that is near: a covariance as a difference of two large products would lose
        # its digits.
        inputs, outputs = (
            rows - near[:, None] for rows, near in zip((inputs, outputs), self._near, strict=True)
        )
        self._num_rows += inputs.shape[1]
        self._x += inputs.sum(1)
        self._y += outputs.sum(1)
        self._xx += inputs.mT @ inputs
        self._xy += inputs.mT @ outputs

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the means of inputs ``(G, P)`` and outputs ``(G, O)``, float64."""
        assert self._near is not None, "nothing was counted in"
        x, y = self._near
        return self._x / self._num_rows + x, self._y / self._num_rows + y

    def moments(self, *, centered: bool) -> tuple[Tensor, Tensor]:
        """Return the means of ``x x^T``, ``(G, P, P)``, and ``x y^T``, ``(G, P, O)``, float64.

        Args:
            centered: Around the means: covariances.
        """
        x, y = self._x / self._num_rows, self._y / self._num_rows
        xx = self._xx / self._num_rows - _outer(x, x)
        xy = self._xy / self._num_rows - _outer(x, y)
        if not centered:
            x, y = self.means()
            xx, xy = xx + _outer(x, x), xy + _outer(x, y)
        return xx, xy


def _outer(x: Tensor, y: Tensor) -> Tensor:
    return x[:, :, None] * y[:, None]


def num_places(module: nn.Module, output: Tensor) -> int:
    """Return how many rows one image gives: places of a map, or tokens before a linear layer."""
    places = output.shape[2:] if isinstance(module, nn.Conv2d) else output.shape[1:-1]
    return places.numel()


def rows_at(
    module: nn.Conv2d | nn.Linear, inputs: Tensor, outputs: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what a layer sees and should say at some places, the same ones in every image.

    Args:
        module: A convolution or linear layer.
        inputs: What goes into it, ``(N, C, H, W)`` or ``(N, ..., C)``.
        outputs: What should come out of it, in the shape that does.
        places: int64 ``(n,)``, each below :func:`num_places`.

    Returns:
        ``(G, N n, P)`` and ``(G, N n, O)``, such that a layer of weight ``w``, ``(G, O, P)``, and
        no bias gives ``inputs @ w.mT``. In the dtype of the weight: a forward may autocast.
    """
    places = places.to(inputs.device)
    inputs, outputs = inputs.to(module.weight.dtype), outputs.to(module.weight.dtype)
    if isinstance(module, nn.Linear):
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])[:, places].flatten(0, 1)
        wanted = outputs.reshape(len(outputs), -1, outputs.shape[-1])[:, places].flatten(0, 1)
        return rows[None], wanted[None]
    rows = _patches(module, inputs, places // outputs.shape[3], places % outputs.shape[3])
    wanted = outputs.flatten(2)[:, :, places].mT
    return _by_group(rows, module.groups), _by_group(wanted, module.groups)


def _patches(conv: nn.Conv2d, inputs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return what the kernel sees at some places, ``(N, n, C kh kw)``.

    As ``F.unfold``, which would make those of all places first.
    """
    padding = conv._reversed_padding_repeated_twice
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = F.pad(inputs, padding, mode=mode)
    taps = [
        padded[
            :,
            :,
            rows * conv.stride[0] + i * conv.dilation[0],
            columns * conv.stride[1] + j * conv.dilation[1],
        ]
        for i in range(conv.kernel_size[0])
        for j in range(conv.kernel_size[1])
    ]
    return torch.stack(taps, 2).flatten(1, 2).mT


def _by_group(rows: Tensor, num_groups: int) -> Tensor:
    """Return ``(G, N n, channels / G)`` of ``(N, n, channels)``."""
    return rows.flatten(0, 1).unflatten(1, (num_groups, -1)).transpose(0, 1)
