"""Identities of channels, some of which turn out to belong together (:mod:`recover.coupling`)."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

Channels = NDArray[np.int64]  # identities of what is along a dimension of a tensor, in its order


class Identities:
    """Channels that belong together, as sets that only grow, and channels that must stay."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._fixed: set[int] = set()

    def new(self, number: int, *, fixed: bool = False) -> Channels:
        """Return channels that belong with no others yet."""
        first = len(self._parents)
        channels = np.arange(first, first + number)
        self._parents += channels.tolist()
        if fixed:
            self.fix(channels)
        return channels

    def fix(self, channels: Channels) -> None:
        """Let the channels stay, with all that belong with them."""
        self._fixed.update(channels.tolist())

    def unite(self, some: Channels, others: Channels) -> None:
        """Let each of some channels and the other in its place belong together."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            roots = self._root(one), self._root(other)
            self._parents[max(roots)] = min(roots)

    def roots(self, channels: Channels) -> list[int]:
        """Return for each channel the first of those that it belongs with."""
        return [self._root(channel) for channel in channels.tolist()]

    def fixed_roots(self) -> set[int]:
        """Return the roots of the sets that must stay."""
        return {self._root(channel) for channel in self._fixed}

    def _root(self, channel: int) -> int:
        parents = self._parents
        while parents[channel] != channel:
            parents[channel] = parents[parents[channel]]
            channel = parents[channel]
        return channel


def reshaped(channels: Channels, before: torch.Size, after: torch.Size) -> Channels | None:
    """Return what is along the second dimension of a reshaped tensor; None if it is a mixture.

    Args:
        channels: Along the second dimension before.
        before: Shape, ``(N, C, ...)``.
        after: Shape.
    """
    if min(len(before), len(after)) < 2 or before[0] != after[0]:
        return None
    inside, left = max(math.prod(before[2:]), 1), max(math.prod(after[2:]), 1)
    if inside % left == 0:  # what was inside a channel is beside it now: flattened
        return channels.repeat(inside // left)
    if left % inside == 0:
        blocks = channels.reshape(after[1], -1)
        if (blocks == blocks[:, :1]).all():  # and back again
            return blocks[:, 0].copy()
    return None


def side_by_side(parts: Iterable[Channels]) -> Channels:
    """Return the channels of tensors that are concatenated."""
    return np.concatenate(tuple(parts))
