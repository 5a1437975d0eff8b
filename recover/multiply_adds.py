"""How many multiply-adds one forward pass takes, and how many are left of them without zeros."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from shared.tensors import tensors_in

COUNTED = (_ConvNd, nn.Linear, nn.MultiheadAttention)
_attention_arguments = inspect.signature(nn.MultiheadAttention.forward)


def count_macs(network: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return the multiply-adds of one forward pass: all, and those by weights that are not zero.

    Convolutions, linear layers and the weights of PyTorch's own attention count, ``positions x
    weights`` each, padding included; biases, normalisation, activations and what attention
    multiplies with each other do not. A layer that runs twice counts twice.

    Args:
        network: Ends as it began: same modes, no hooks.
        image: ``(1, C, H, W)`` inputs on its device.
    """
    totals = [0, 0]

    def add(
        module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], output: Any
    ) -> None:
        for weight, positions in _uses(module, given, named, output):
            totals[0] += positions * weight.numel()
            totals[1] += positions * int(weight.detach().count_nonzero())

    layers = [module for module in network.modules() if isinstance(module, COUNTED)]
    handles = [layer.register_forward_hook(add, with_kwargs=True) for layer in layers]
    try:
        with _evaluating(network):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return totals[0], totals[1]


def _uses(
    module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], output: Any
) -> Iterator[tuple[Tensor, int]]:
    """Yield the weights of a call, and at how many positions each was used."""
    if isinstance(module, nn.MultiheadAttention):
        yield from _uses_of_attention(module, given, named)
        return
    weight = module.weight
    taken, made = (next(tensors_in(each), None) for each in ((given, named), output))
    assert isinstance(weight, Tensor)
    if taken is None or made is None:  # of a class of somebody's own
        return
    if isinstance(module, nn.Linear):
        yield weight, made.numel() // module.out_features
    elif isinstance(module, _ConvTransposeNd):  # every input position meets the whole kernel
        yield weight, taken.numel() // module.in_channels
    else:
        assert isinstance(module, _ConvNd)
        yield weight, made.numel() // module.out_channels


def _uses_of_attention(
    module: nn.MultiheadAttention, given: tuple[Any, ...], named: Mapping[str, Any]
) -> Iterator[tuple[Tensor, int]]:
    """Yield the four matrices: the module multiplies by them itself, and calls no layer."""
    taken = _queries_keys_values(module, given, named)
    if module.in_proj_weight is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        weights = module.in_proj_weight.chunk(3)
    for tensor, weight in zip(taken, weights, strict=False):
        yield weight, tensor.numel() // weight.shape[1]
    for queries in taken[:1]:
        yield module.out_proj.weight, queries.numel() // module.embed_dim


def _queries_keys_values(
    module: nn.MultiheadAttention, given: tuple[Any, ...], named: Mapping[str, Any]
) -> list[Tensor]:
    """Return what a call attends with; of a class that takes other arguments, its first tensor."""
    try:
        arguments = _attention_arguments.bind(module, *given, **named).arguments
        return [arguments[name] for name in ("query", "key", "value")]
    except TypeError:
        return [*tensors_in((given, named))][:1] * 3


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
