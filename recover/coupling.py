"""Which channels of a network can only be removed together, read off one forward pass.

A channel is made by one layer and taken by others, and additions tie channels of several layers to
each other (Fang et al. 2023, "DepGraph", arXiv:2301.12900). Here a forward pass is watched
operation by operation, below modules and functions, so that it does not matter how somebody's
``forward`` is written: every tensor carries the identities of its channels, convolutions make new
ones, additions make two into one, concatenations put them side by side. Of what is not understood
(an operation unknown here, a slice of the channels) the channels that go in are not removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recover import operations
from recover.identities import Channels, Identities, reshaped, side_by_side
from shared.architectures import rigid_tensors
from shared.dispatch import DispatchMode
from shared.tensors import tensors_in
from shared.ties import shared_names

Axis = tuple[str, int]  # a parameter or buffer, and which of its dimensions

_NUM_IMAGES = 2  # of a single one, a shape does not tell the batch from other ones
_PAIRWISE = frozenset(("add", "sub", "rsub", "mul", "div", "maximum", "minimum"))
_TURNING = frozenset(("t", "transpose", "permute"))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """Units that a network treats alike, so that any of them may be removed.

    Attributes:
        axes: Where they are: dimensions of tensors.
        units: For each axis int64 ``(units, positions)``: which positions along it each unit has.
            Mostly one; several where features were flattened, or a grouped convolution ties them.
    """

    axes: tuple[Axis, ...]
    units: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.units[0])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Coupling:
    """What of a network can be removed.

    Attributes:
        groups: In the order of the forward pass.
        inputs: What each convolution and linear layer takes in, channel by channel, by the name of
            its weight: ``(group, unit)``, or None of a channel that stays.
        places: How often each of these weights is multiplied with for one image: the positions of
            what its layer makes, all of its calls together.
    """

    groups: tuple[Group, ...]
    inputs: Mapping[str, tuple[tuple[int, int] | None, ...]]
    places: Mapping[str, int]


@torch.no_grad()
def coupled_channels(network: nn.Module, image_shape: Sequence[int]) -> Coupling:
    """Return which channels of ``network`` go together.

    Args:
        network: In evaluation mode, on the CPU; unchanged.
        image_shape: ``(C, H, W)`` of an image.
    """
    watch = _Watch(network)
    following = [m for m in network.modules() if getattr(m, "follows_widths", False)]
    hooks = [m.register_forward_pre_hook(lambda *_: watch.follow_widths(True)) for m in following]
    hooks += [m.register_forward_hook(lambda *_: watch.follow_widths(False)) for m in following]
    try:
        with watch:
            logits = network(torch.zeros(_NUM_IMAGES, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    watch.fix(logits)
    return watch.result()


class _Watch(DispatchMode):
    """Follows channels through the operations of a forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            self._names.setdefault(id(tensor), name)
        self._shared = shared_names(network)
        self._kept_alive: list[object] = []  # so that no identity is taken twice
        self._identities = Identities()
        self._channels: dict[int, Channels] = {}  # by identity of an activation
        self._turned: dict[int, str] = {}  # transposed matrices of linear layers
        # Parameters that go into something else, or are of a module that cannot be narrower.
        self._computed_with = {self._names[id(tensor)] for tensor in rigid_tensors(network)}
        self._axes: dict[Axis, Channels] = {}
        self._inputs: dict[str, Channels] = {}
        self._places: dict[str, int] = {}
        self._follows_widths = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2].removesuffix("_")  # in place or not
        output = result[0] if isinstance(result, (tuple, list)) and result else result
        self._kept_alive += [args, result]
        if name in operations.MAKING:
            return result
        if not isinstance(output, Tensor):
            self.fix(args)
        elif name in _TURNING and id(args[0]) in self._names and output.dim() == 2:
            self._turned[id(output)] = self._names[id(args[0])]
        elif (channels := self._follow(name, args, kwargs or {}, output)) is None:
            self.fix((args, kwargs))
        else:
            self._channels[id(output)] = channels
        return result

    def fix(self, values: object) -> None:
        """Let all channels of the tensors in ``values`` stay."""
        for tensor in tensors_in(values):
            if id(tensor) in self._channels:
                self._identities.fix(self._channels[id(tensor)])
            elif id(tensor) in self._names:
                self._computed_with.add(self._names[id(tensor)])

    def follow_widths(self, follows: bool) -> None:  # noqa: FBT001
        """Say whether from now on channels are added by code that sees how many are needed.

        Such code has an attribute ``follows_widths``. It adds them at one end, or as many at one
        as at the other: then one of either end goes with one of the other.
        """
        self._follows_widths = follows

    def result(self) -> Coupling:
        """Return what was found."""
        for (name, _), channels in self._axes.items():
            if name in self._computed_with:
                self._identities.fix(channels)
        fixed = self._identities.fixed_roots()
        places: dict[int, dict[Axis, list[int]]] = {}
        for axis, channels in self._axes.items():
            for position, root in enumerate(self._identities.roots(channels)):
                if root not in fixed:
                    places.setdefault(root, {}).setdefault(axis, []).append(position)
        alike: dict[tuple[tuple[Axis, int], ...], list[int]] = {}
        for root, where in places.items():
            key = tuple((axis, len(positions)) for axis, positions in sorted(where.items()))
            alike.setdefault(key, []).append(root)
        groups: list[Group] = []
        unit_of: dict[int, tuple[int, int]] = {}
        for key, members in alike.items():
            unit_of |= {root: (len(groups), unit) for unit, root in enumerate(members)}
            units = tuple(np.array([places[root][axis] for root in members]) for axis, _ in key)
            groups.append(Group(axes=tuple(axis for axis, _ in key), units=units))
        inputs = {
            name: tuple(unit_of.get(root) for root in self._identities.roots(channels))
            for name, channels in self._inputs.items()
        }
        for first, *others in self._shared:  # what a weight is used for was united
            inputs |= {name: inputs[first] for name in others if first in inputs}
        return Coupling(groups=tuple(groups), inputs=inputs, places=self._places)

    def _follow(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
    ) -> Channels | None:
        """Return what is along the second dimension of ``output``; None if that is not known."""
        if name == "convolution":
            return self._convolution(output[0, 0].numel(), *args)
        if name in ("addmm", "mm"):
            bias, x, turned = (None, *args) if name == "mm" else args
            return None if kwargs else self._linear(x, turned, bias)
        if "batch_norm" in name:
            return self._batch_norm(args)
        if name == "cat":
            return self._concatenation(*args)
        if name in _PAIRWISE:
            return self._pair(args, output) if output.dim() > 1 else None  # of weights alone
        known = [tensor for tensor in tensors_in((args, kwargs)) if id(tensor) in self._channels]
        if len(known) != 1 or known[0] is not args[0]:
            return None
        channels, before = self._channels[id(args[0])], args[0].shape
        if name in operations.RESHAPING:
            return reshaped(channels, before, output.shape)
        if name == "constant_pad_nd" and len(args[1]) > 4:
            return self._padded(channels, args[1], output)
        is_known = name in operations.POINTWISE_OR_SPATIAL
        is_known |= name in operations.REDUCING and operations.keeps_channels(args, kwargs)
        return channels if is_known and output.shape[:2] == before[:2] else None

    def _convolution(
        self, places: int, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
    ) -> Channels | None:
        is_transposed, groups = rest[3], rest[5]
        name, taken = self._names.get(id(weight)), self._channels.get(id(x))
        if name is None or is_transposed or (groups > 1 and taken is None):
            return None
        made = self._identities.new(len(weight))
        if groups == 1:
            self._takes(name, taken)
        elif taken is not None:
            self._inputs.setdefault(name, taken)
            # A group of channels goes as a whole: those that it takes, and those that it makes.
            for tied in np.hstack((taken.reshape(groups, -1), made.reshape(groups, -1))):
                self._identities.unite(np.full(len(tied) - 1, tied[0]), tied[1:])
        return self._makes(name, made, bias, places)

    def _linear(self, x: Tensor, turned: Tensor, bias: Tensor | None) -> Channels | None:
        name = self._turned.get(id(turned))
        if name is None or x.dim() != 2:
            return None
        self._takes(name, self._channels.get(id(x)))
        return self._makes(name, self._identities.new(turned.shape[1]), bias, places=1)

    def _takes(self, name: str, taken: Channels | None) -> None:
        if taken is not None:
            self._at((name, 1), taken)
            self._inputs.setdefault(name, taken)

    def _makes(self, name: str, made: Channels, bias: Tensor | None, places: int) -> Channels:
        self._places[name] = self._places.get(name, 0) + places
        self._at((name, 0), made)
        if bias is not None and id(bias) in self._names:
            self._at((self._names[id(bias)], 0), made)
        elif bias is not None:
            self._identities.fix(made)
        return made

    def _batch_norm(self, args: Sequence[Any]) -> Channels | None:
        channels = self._channels.get(id(args[0]))
        tensors = [tensor for tensor in args[1:5] if isinstance(tensor, Tensor)]
        if channels is None or any(id(tensor) not in self._names for tensor in tensors):
            return None
        for tensor in tensors:
            self._at((self._names[id(tensor)], 0), channels)
        return channels

    def _concatenation(self, tensors: Sequence[Tensor], dim: int = 0) -> Channels | None:
        parts = [self._channels.get(id(tensor)) for tensor in tensors]
        known = [part for part in parts if part is not None]
        place = dim % tensors[0].dim()
        if place == 1:
            return side_by_side(
                self._identities.new(tensor.shape[1], fixed=True) if part is None else part
                for part, tensor in zip(parts, tensors, strict=True)
            )
        if place == 0 or len(known) < len(parts):
            return None
        for part in known[1:]:
            self._identities.unite(known[0], part)
        return known[0]

    def _pair(self, args: Sequence[Any], output: Tensor) -> Channels | None:
        """Channels that are added, multiplied and so on belong together from then on."""
        whole = None
        for tensor in tensors_in(args):
            channels = self._channels.get(id(tensor))
            place = tensor.dim() - (output.dim() - 1)  # of the channels, once it is broadcast
            is_same_for_all = place < 0 or tensor.shape[place] == 1
            if channels is None or place != 1:
                if not is_same_for_all:
                    return None  # numbers of its own for every channel, that cannot be cut
            elif len(channels) < output.shape[1]:
                self._identities.fix(channels)  # a mask that all channels share
            else:
                if whole is not None:
                    self._identities.unite(whole, channels)
                whole = channels
        return whole

    def _padded(self, channels: Channels, pad: Sequence[int], output: Tensor) -> Channels | None:
        """New channels of zeros stay where somebody's forward says how many there are."""
        if len(pad) != 2 * (output.dim() - 1) or min(pad[-2:]) < 0:
            return None
        is_fixed = not self._follows_widths
        before, after = (self._identities.new(number, fixed=is_fixed) for number in pad[-2:])
        if len(before) == len(after):
            self._identities.unite(before, after)
        return side_by_side((before, channels, after))

    def _at(self, axis: Axis, channels: Channels) -> None:
        """Note what is along a dimension of a tensor. What is used twice belongs together."""
        before = self._axes.setdefault(axis, channels)
        if before is not channels:
            self._identities.unite(before, channels)
