"""Hooks on what a layer takes, whether its caller names it (``layer(input=x)``) or not.

PyTorch's own hooks are given the inputs without a name alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shared.tensors import tensors_in


def on_input(module: nn.Module, see: Callable[[Tensor], object]) -> RemovableHandle:
    """Have ``see`` called with the module's input before each of its forward passes.

    That is the first tensor that it is given; where there is none, nothing is called.
    """

    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        for given in tensors_in((inputs, named)):
            see(given)
            break

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def on_output(module: nn.Module, see: Callable[[Tensor, Any], object]) -> RemovableHandle:
    """Have ``see`` called with the module's input and its output after each forward pass."""

    def hook(
        _module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: object
    ) -> None:
        for given in tensors_in((inputs, named)):
            see(given, output)
            break

    return module.register_forward_hook(hook, with_kwargs=True)
