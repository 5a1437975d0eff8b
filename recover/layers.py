"""Which layers a forward pass goes through, in which order, and what passes through one of them."""

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.depthwise import DenselyComputedConv2d
from shared.hooks import on_input, on_output
from shared.teacher import batch_norms

# Modules that do nothing else with their weight: a subclass may, parametrized ones have none.
EXACT_TYPES = (nn.Conv2d, DenselyComputedConv2d, nn.Linear)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Layer:
    """A convolution or linear layer of its own weight, that every forward pass calls once.

    Attributes:
        name: Of the module.
        module: Of one of :data:`EXACT_TYPES`.
        is_normalized: Whether its output goes straight into a BatchNorm.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    is_normalized: bool

    @property
    def weight_name(self) -> str:
        """The name of its weight in the state dict."""
        return f"{self.name}.weight".lstrip(".")

    @property
    def num_inputs(self) -> int:
        """How many inputs one output is a sum over."""
        return self.module.weight[0].numel()


@torch.no_grad()
def layers_in_order(network: nn.Module, inputs: Tensor) -> list[Layer]:
    """Return the layers that are called once, in the order in which they are.

    Layers that are called never or more than once, layers that share their weight, and other kinds
    of convolution are left out.

    Args:
        network: In evaluation mode; unchanged.
        inputs: Any batch of normalised images, one is enough.
    """
    candidates = _layers_of_their_own_weight(network)
    calls: list[str] = []
    made: list[tuple[str, Tensor]] = []  # kept, so that no tensor takes another's place
    normalized: set[str] = set()

    def remember(name: str, output: Tensor) -> None:
        calls.append(name)
        made.append((name, output))

    def compare(given: Tensor) -> None:
        normalized.update(name for name, output in made if output is given)

    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: remember(name, output))
        for name, module in candidates.items()
    ]
    handles += [on_input(norm, compare) for norm in batch_norms(network).values()]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [
        Layer(name=name, module=candidates[name], is_normalized=name in normalized)
        for name in calls
        if calls.count(name) == 1
    ]


def pass_through(network: nn.Module, module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``module`` takes and gives when ``network`` is applied to ``inputs``.

    What would come after the module is not computed.
    """
    passed: list[Tensor] = []

    def stop(given: Tensor, output: Tensor) -> None:
        passed.extend((given, output))
        raise _ReachedError

    handle = on_output(module, stop)
    try:
        with suppress(_ReachedError):
            network(inputs)
    finally:
        handle.remove()
    given, output = passed
    return given, output


class _ReachedError(Exception):
    """The layer in question has been called."""


def _layers_of_their_own_weight(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    found: dict[str, nn.Conv2d | nn.Linear] = {}
    uses: dict[int, int] = {}
    for name, module in network.named_modules():
        weight = module._parameters.get("weight")
        uses[id(weight)] = uses.get(id(weight), 0) + 1
        if type(module) in EXACT_TYPES and weight is not None:
            assert isinstance(module, (nn.Conv2d, nn.Linear))
            found[name] = module
    return {name: module for name, module in found.items() if uses[id(module.weight)] == 1}
