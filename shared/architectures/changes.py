"""Networks of known architectures that somebody has changed: another head, other biases.

Who fine-tunes a published network gives it a new head, often in a ``Sequential``: a dropout and a
linear layer. Where the tensors leave no doubt what was built, it is built again under the same
names. They leave doubt between two linear layers: whether an activation stands there, and which,
no tensor tells, and a wrong guess would be another network.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from shared.architectures.candidate import Candidate
from shared.architectures.skeleton import build_skeleton

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a head: linear, or a BatchNorm over features.

    Attributes:
        position: Its place in the ``Sequential``; None where the head is this layer alone.
        weight: Shape: ``(out, in)``, or ``(features,)`` of a BatchNorm.
        has_bias: Of a linear layer.
    """

    position: int | None
    weight: tuple[int, ...]
    has_bias: bool

    @property
    def is_linear(self) -> bool:
        """Whether it is no BatchNorm."""
        return len(self.weight) == 2

    def build(self) -> nn.Module:
        """Return the layer, not initialised to anything in particular."""
        if not self.is_linear:
            return nn.BatchNorm1d(self.weight[0])
        return nn.Linear(self.weight[1], self.weight[0], bias=self.has_bias)

    def __str__(self) -> str:
        """Return it as code."""
        if not self.is_linear:
            return f"BatchNorm1d({self.weight[0]})"
        return f"Linear({self.weight[1]}, {self.weight[0]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What somebody changed in an architecture.

    Attributes:
        head: Path of the module that was replaced, and its layers; None where it was not.
        with_bias: Convolutions and linear layers that have a bias, and had none.
        without_bias: The reverse.
    """

    head: tuple[str, tuple[Layer, ...]] | None
    with_bias: tuple[str, ...]
    without_bias: tuple[str, ...]

    def apply(self, network: nn.Module) -> None:
        """Make the change in a network of the architecture."""
        if self.head is not None:
            path, layers = self.head
            network.set_submodule(path, _built(layers))
        for name in self.with_bias:
            layer = network.get_submodule(name)
            bias = torch.zeros(len(layer.weight))  # type: ignore[arg-type]
            layer.register_parameter("bias", nn.Parameter(bias))
        for name in self.without_bias:
            network.get_submodule(name).register_parameter("bias", None)

    def doubt(self) -> str:
        """Return why the network cannot be built from its tensors; empty where it can."""
        if self.head is None:
            return ""
        path, layers = self.head
        linear = [layer for layer in layers if layer.is_linear]
        known = {layer.position for layer in layers}
        between = range(linear[0].position or 0, linear[-1].position or 0)
        if all(position in known for position in between):
            return ""
        described = str(layers[0])
        for before, layer in itertools.pairwise(layers):
            is_next = layer.position == (before.position or 0) + 1
            described += f", {layer}" if is_next else f", ..., {layer}"
        return (
            f"its head {path!r} is another, with {described}, and no tensor "
            "tells which activation stands between: write a factory that builds it, "
            "--arch package.module:factory"
        )

    def notes(self) -> list[str]:
        """Return what was changed, a sentence each."""
        said = []
        if self.head is not None:
            path, layers = self.head
            said.append(f"its head {path!r} is another: {', '.join(map(str, layers))}")
        for names, words in ((self.with_bias, "a"), (self.without_bias, "no")):
            if names:
                more = f" and {len(names) - 1} other layers" if len(names) > 1 else ""
                said.append(f"{names[0]!r}{more} with {words} bias")
        return said


def find_change(candidate: Candidate, shapes: Shapes) -> Change | None:
    """Return what would make a candidate's tensors those of a checkpoint, or None.

    Only names are compared outside the head.

    Args:
        candidate: One that has no prefixes in its names, as in the catalog.
        shapes: Of a checkpoint's tensors, without BatchNorm's counters.
    """
    network = build_skeleton(lambda: candidate.build(2))
    expected = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    head = _find_head(network, expected, shapes)
    with_bias: list[str] = []
    without_bias: list[str] = []
    for name, layer in network.named_modules():
        inside = head is not None and f"{name}.".startswith(f"{head[0]}.")
        if inside or not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        if f"{name}.weight" in shapes and (f"{name}.bias" in shapes) != (layer.bias is not None):
            (with_bias if layer.bias is None else without_bias).append(name)
    if head is None and not with_bias and not without_bias:
        return None
    return Change(head=head, with_bias=tuple(with_bias), without_bias=tuple(without_bias))


def changed(candidate: Candidate, change: Change) -> Candidate:
    """Return a candidate of the same name that builds the changed network.

    Where the head was replaced, its number of classes is the checkpoint's, whatever is asked for.
    """
    return replace(candidate, build=partial(_build, candidate, change))


def _build(candidate: Candidate, change: Change, num_classes: int) -> nn.Module:
    network = candidate.build(num_classes)
    change.apply(network)
    return network


def _find_head(
    network: nn.Module, expected: set[str], shapes: Shapes
) -> tuple[str, tuple[Layer, ...]] | None:
    """Return the path of the module that another head stands in place of, and its layers."""
    modules = network.named_modules()
    linear = [(name, layer) for name, layer in modules if isinstance(layer, nn.Linear)]
    if not linear or not _named_otherwise(expected, set(shapes)):
        return None
    for path in _paths(linear[-1][0]):
        inside = f"{path}."
        ours = {name for name in expected if name.startswith(inside)}
        theirs = {name: shape for name, shape in shapes.items() if name.startswith(inside)}
        layers = _read_layers({name.removeprefix(inside): s for name, s in theirs.items()})
        first = next(layer for name, layer in linear if f"{name}.".startswith(inside))
        if layers is None or _named_otherwise(expected - ours, shapes.keys() - theirs.keys()):
            continue
        if _chain(layers, first.in_features):
            return path, layers
    return None


def _paths(name: str) -> Iterator[str]:
    """Yield a module's path, and those of the modules around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _read_layers(shapes: Shapes) -> tuple[Layer, ...] | None:
    """Return the layers of a ``Sequential``, or a single one; None for anything else."""
    roles: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        key, _, role = name.rpartition(".")
        roles.setdefault(key, {})[role] = shape
    alone = list(roles) == [""]
    if not roles or not (alone or all(key.isdecimal() for key in roles)):
        return None
    layers = []
    for key, tensors in roles.items():
        weight = tensors.get("weight", ())
        norm = {"weight", "bias", "running_mean", "running_var"} == tensors.keys()
        if not (norm and len(weight) == 1) and not (
            tensors.keys() <= {"weight", "bias"} and len(weight) == 2
        ):
            return None
        position = None if alone else int(key)
        layers.append(Layer(position=position, weight=weight, has_bias="bias" in tensors))
    return tuple(sorted(layers, key=lambda layer: layer.position or 0))


def _chain(layers: tuple[Layer, ...], features: int) -> bool:
    """Tell whether each layer takes what the one before it gives, and the last is linear."""
    for layer in layers:
        if layer.weight[-1] != features:
            return False
        features = layer.weight[0]
    return layers[-1].is_linear


def _built(layers: tuple[Layer, ...]) -> nn.Module:
    """Return the head; what has no tensors and stands before or behind is left out."""
    if layers[0].position is None:
        return layers[0].build()
    return nn.Sequential(OrderedDict((str(layer.position), layer.build()) for layer in layers))


def _named_otherwise(ours: set[str], theirs: set[str]) -> bool:
    """Tell whether two sets of names differ in more than biases."""
    return any(not name.endswith(".bias") for name in ours ^ theirs)
