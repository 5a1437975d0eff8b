"""Tensors that several layers of a network share, and networks that lost that in loading.

``decoder.weight = encoder.weight`` makes one parameter of two names. A state dict has it under
both, and what is assigned name by name comes out as two parameters, which training drives apart.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from shared.errors import CheckpointError

Names = tuple[str, ...]


def shared_names(network: nn.Module) -> tuple[Names, ...]:
    """Return the names of every tensor of ``network`` that has several, in order of definition."""
    names: dict[int, list[str]] = {}
    for name, tensor in (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ):
        names.setdefault(id(tensor), []).append(name)
    return tuple(tuple(alike) for alike in names.values() if len(alike) > 1)


def tie(network: nn.Module, shared: Sequence[Names]) -> None:
    """Give every name in a group the tensor of the first one.

    Args:
        network: Changed in place.
        shared: What :func:`shared_names` returned before tensors were assigned.

    Raises:
        CheckpointError: If the tensors of a group differ: they are of no network that shares them.
    """
    for first, *others in shared:
        tensor = _get(network, first)
        for name in others:
            if not torch.equal(tensor, _get(network, name)):
                raise CheckpointError(
                    f"{first[:60]!r} and {name[:60]!r} differ, and the network has one tensor for "
                    "both; expected the weights of one that shares it: take the factory of the "
                    "network that was trained, or train with this one"
                )
            path, _, own = name.rpartition(".")
            module = network.get_submodule(path)
            own_tensors: Any = module._parameters if own in module._parameters else module._buffers
            own_tensors[own] = tensor


def _get(network: nn.Module, name: str) -> torch.Tensor:
    path, _, own = name.rpartition(".")
    tensor: torch.Tensor = getattr(network.get_submodule(path), own)
    return tensor
