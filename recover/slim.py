"""Fewer channels: a network that is smaller and faster everywhere, and in nothing else special.

Whole channels are removed, with all weights that make or take them: in every layer the same share,
those that matter least, or in all layers those that matter least for what they cost. What is left
is a dense network, for any runtime.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recover.config import RecoverConfig
from recover.coupling import Axis, coupled_channels
from recover.cut import Cut
from recover.worth import LEAST_SHARE, Positions, highest, rounded, unit_scores, worth_most
from shared.distributed import digest_of
from shared.errors import ConfigError, IncompatibleError
from shared.seeding import generator


class Slimming:
    """The channels of a network that are still there.

    Attributes:
        kept: For each group of interchangeable units those that are left, ascending.

    Args:
        network: With all of its channels, in evaluation mode; unchanged.
        image_shape: ``(C, H, W)``.
        whole: Names of tensors whose channels all stay.

    Raises:
        IncompatibleError: If nothing of it can be removed; ConfigError where that is ``whole``.
    """

    def __init__(
        self, network: nn.Module, image_shape: Sequence[int], whole: Sequence[str] = ()
    ) -> None:
        coupling = coupled_channels(copy.deepcopy(network).cpu(), image_shape)
        self._groups, self._inputs = coupling.groups, coupling.inputs
        self._places = coupling.places
        self._is_free = [not any(name in whole for name, _ in g.axes) for g in self._groups]
        if whole and self._groups and not any(self._is_free):
            raise ConfigError(
                f"--channels: found --keep with {len(whole)} layers, which leaves none whose "
                "channels may go; keep fewer layers"
            )
        if not any(self._is_free):
            raise IncompatibleError(
                "--channels: no channel of this network can be removed; expected convolutions "
                "between which there is nothing but BatchNorm, activations, pooling, additions"
            )
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self._sizes = {
            axis: tensors[axis[0]].shape[axis[1]] for group in self._groups for axis in group.axes
        }
        self.kept: list[Positions] = [np.arange(len(group)) for group in self._groups]
        self._left = self._positions_left()

    def cut(
        self,
        network: nn.Module,
        fraction: float,
        *,
        squared_gradients: Mapping[str, Tensor] | None = None,
        by_worth: bool = False,
        round_to: int = 1,
        seed: int | None = None,
        only: int | None = None,
    ) -> Cut:
        """Return what to cut, so that each group has ``fraction`` of its units left, at least one.

        From then on the others count as gone.

        Args:
            network: With the channels that are left; unchanged.
            fraction: In (0, 1], of the number at the start, rounded. What is gone stays gone.
            squared_gradients: Weighs squared weights with them instead of layer by layer.
            by_worth: With ``squared_gradients``, let layers keep other shares than that: units go
                by what is lost with each of their multiply-adds, until as few of these are left.
            round_to: Groups keep multiples of it, where they have as many.
            seed: Of a random choice instead, the control experiment.
            only: The group to cut, the others stay as they are; None: all of them.
        """
        wanted = self._wanted(fraction, only)
        if squared_gradients is not None and by_worth:
            best = self._worth_most(network, squared_gradients, wanted, round_to)
        else:
            best = [
                highest(
                    self._scores(network, number, squared_gradients, seed),
                    rounded(count, round_to, len(self._groups[number])),
                )
                for number, count in enumerate(wanted)
            ]
        self.kept = [units[stays] for units, stays in zip(self.kept, best, strict=True)]
        before, self._left = self._left, self._positions_left()
        return Cut(
            {
                axis: np.searchsorted(before[axis], left)
                for axis, left in self._left.items()
                if len(left) < len(before[axis])
            }
        )

    def cut_as_chosen(
        self,
        network: nn.Module,
        config: RecoverConfig,
        fraction: float | None = None,
        squared_gradients: Mapping[str, Tensor] | None = None,
        only: int | None = None,
    ) -> Cut:
        """Return what to cut for the importance that ``config`` names; see :meth:`cut`.

        Args:
            network: With the channels that are left; unchanged.
            config: Its own fraction is the final one.
            fraction: Where it is not that one yet.
            squared_gradients: As for :meth:`cut`, where there are some.
            only: As for :meth:`cut`.
        """
        return self.cut(
            network,
            fraction or config.channels or 1.0,
            squared_gradients=squared_gradients,
            by_worth=config.allocation != "uniform",
            round_to=config.round_to,
            seed=config.seed if config.importance == "random" else None,
            only=only,
        )

    def check(self, network: nn.Module) -> None:
        """Assert that ``network`` has the channels that count as left, and no others."""
        assert self._are_of(network), "the channels that count as gone are still there"

    def check_share(self, config: RecoverConfig) -> None:
        """Assert that no layer has more channels than ``config`` leaves each of them."""
        if config.allocation != "uniform" and config.importance == "fisher":
            return  # layers keep other shares than that
        wanted = self._wanted(config.channels or 1.0)
        for group, units, count in zip(self._groups, self.kept, wanted, strict=True):
            most = rounded(count, config.round_to, len(group))
            assert len(units) <= most, f"{len(units)} of {len(group)} channels, expected {most}"

    def makers(self) -> dict[int, tuple[str, ...]]:
        """Return the names of the weights that make each group's channels, of those to remove."""
        return {
            number: tuple(name for name, dim in group.axes if name in self._places and dim == 0)
            for number, group in enumerate(self._groups)
            if self._is_free[number]
        }

    def inputs_left(self) -> dict[str, Tensor]:
        """Return which of the channels that a layer took in at the start it still takes in.

        By the name of its weight, int64, ascending; only of layers that lost some.
        """
        sets = [set(units.tolist()) for units in self.kept]
        left = {}
        for name, taken in self._inputs.items():
            stays = [place for place, at in enumerate(taken) if at is None or at[1] in sets[at[0]]]
            if len(stays) < len(taken):
                left[name] = torch.tensor(stays)
        return left

    def state(self) -> dict[str, Any]:
        """Return what is left, for :meth:`restore`."""
        return {str(number): torch.from_numpy(units) for number, units in enumerate(self.kept)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.kept = [state[str(number)].cpu().numpy() for number in range(len(self._groups))]
        self._left = self._positions_left()

    def record(self) -> dict[str, list[int]]:
        """Return what is left as JSON, for :meth:`restore_record`."""
        return {name: units.tolist() for name, units in self.state().items()}

    def restore_record(self, record: Any, network: nn.Module) -> bool:
        """Go on from a :meth:`record`, of any file: return whether it is one of ``network``.

        Args:
            record: Anything; checked against the network that is here in full.
            network: With the channels that are left.
        """
        groups = {str(number): len(group) for number, group in enumerate(self._groups)}
        if not isinstance(record, Mapping) or record.keys() != groups.keys():
            return False
        for name, size in groups.items():
            units = record[name]
            if not isinstance(units, list) or any(type(unit) is not int for unit in units):
                return False
            if not units or units != sorted({*units}) or units[0] < 0 or units[-1] >= size:
                return False
        self.restore({name: torch.tensor(units) for name, units in record.items()})
        return self._are_of(network)

    def digest(self) -> int:
        """Return 63 bits that differ, but by chance, where other channels are left."""
        return digest_of(units.tobytes() for units in self.kept)

    def _are_of(self, network: nn.Module) -> bool:
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return all(
            name in tensors and tensors[name].shape[dim] == len(places)
            for (name, dim), places in self._left.items()
        )

    def _wanted(self, fraction: float, only: int | None = None) -> list[int]:
        return [
            max(1, round(fraction * len(group)))
            if is_free and only in (None, number)
            else len(group)
            for number, (group, is_free) in enumerate(zip(self._groups, self._is_free, strict=True))
        ]

    def _scores(
        self,
        network: nn.Module,
        number: int,
        squared_gradients: Mapping[str, Tensor] | None,
        seed: int | None,
    ) -> Tensor:
        if seed is None:
            return unit_scores(network, self._places_now(number), squared_gradients)
        draws = torch.rand(len(self._groups[number]), generator=generator(seed, "channels", number))
        return draws[torch.from_numpy(self.kept[number])]

    def _worth_most(
        self,
        network: nn.Module,
        squared_gradients: Mapping[str, Tensor],
        wanted: Sequence[int],
        round_to: int,
    ) -> list[Positions]:
        """Return which of each group's units stay, so that all cost what ``wanted`` of each would.

        Of every group, :data:`LEAST_SHARE` of those stay.
        """
        shapes = {name: p.shape for name, p in network.named_parameters() if name in self._places}
        full = {
            name: [self._sizes.get((name, dim), size) for dim, size in enumerate(shape)]
            for name, shape in shapes.items()
        }

        def macs(kept: Sequence[Positions]) -> int:
            left = self._positions_left(kept)
            return sum(
                self._places[name]
                * math.prod(
                    len(left[name, dim]) if (name, dim) in left else size
                    for dim, size in enumerate(shape)
                )
                for name, shape in full.items()
            )

        worth = []
        for number in range(len(self._groups)):
            now = self._places_now(number)
            price = sum(
                self._places[name] * math.prod(shapes[name]) // shapes[name][dim] * places.shape[1]
                for (name, dim), places in now.items()
                if name in shapes
            )
            worth.append(unit_scores(network, now, squared_gradients) / price)
        least = [
            max(1, round(LEAST_SHARE * count)) if is_free else len(units)
            for count, units, is_free in zip(wanted, self.kept, self._is_free, strict=True)
        ]
        return worth_most(
            worth,
            least,
            cost=lambda best: macs([u[b] for u, b in zip(self.kept, best, strict=True)]),
            budget=macs([np.arange(count) for count in wanted]),
            round_to=round_to,
        )

    def _positions_left(self, kept: Sequence[Positions] | None = None) -> dict[Axis, Positions]:
        """Return which of the positions at the start are still there, ascending, by axis."""
        stays = {axis: np.ones(size, dtype=bool) for axis, size in self._sizes.items()}
        for group, units in zip(self._groups, kept or self.kept, strict=True):
            gone = np.setdiff1d(np.arange(len(group)), units)
            for axis, places in zip(group.axes, group.units, strict=True):
                stays[axis][places[gone].reshape(-1)] = False
        return {axis: np.flatnonzero(mask) for axis, mask in stays.items()}

    def _places_now(self, number: int) -> dict[Axis, Positions]:
        """Return where a group's units that are left are now: ``(units, positions)`` by axis."""
        group, units = self._groups[number], self.kept[number]
        return {
            axis: np.searchsorted(self._left[axis], places[units])
            for axis, places in zip(group.axes, group.units, strict=True)
        }
