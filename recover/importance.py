"""How much each prunable weight matters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

PRUNED = -1.0  # below every magnitude: what is pruned stays pruned


def prunable_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all convolutions and linear layers, by state-dict name.

    Biases and BatchNorm are not pruned. A weight that two layers share appears once, under the
    name of the first.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in network.named_modules():
        if not isinstance(module, (_ConvNd, nn.Linear)):
            continue
        weight = module._parameters.get("weight")
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            found[f"{prefix}.weight".lstrip(".")] = weight
    return found


@torch.no_grad()
def magnitudes(network: nn.Module, kept: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the absolute value of every prunable weight, float32, in the weights' shapes.

    Args:
        network: Any network.
        kept: Masks in force (True = kept). Weights outside them score :data:`PRUNED`, less than
            any other, even one that happens to be zero.
    """
    scores = {
        name: weight.detach().abs().float() for name, weight in prunable_weights(network).items()
    }
    for name, mask in (kept or {}).items():
        scores[name].masked_fill_(~mask, PRUNED)
    return scores
