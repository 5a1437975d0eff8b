"""Which weights of a network can be pruned, and which of them are the largest.

What ``recover`` prunes, ``dreamforge`` prunes to see where pruned networks fail.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def prunable_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all convolutions and linear layers, by state-dict name.

    Those of PyTorch's own attention are linear, too. Biases and normalisations are not pruned. A
    weight that two layers share appears once, under the name of the first.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in network.named_modules():
        for name in _weights_of(module):
            weight = module._parameters.get(name)
            if weight is not None and id(weight) not in seen:
                seen.add(id(weight))
                found[f"{prefix}.{name}".lstrip(".")] = weight
    return found


def _weights_of(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ("weight",) if isinstance(module, (_ConvNd, nn.Linear)) else ()


def unprunable_layers(network: nn.Module) -> list[str]:
    """Return the names of convolutions and linear layers whose weight is no parameter.

    It is computed from others whenever the layer is called, as with a weight norm.
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear)) and module._parameters.get("weight") is None
    ]


def num_weights_kept(num_weights: int, sparsity: float) -> int:
    """Return how many of ``num_weights`` are kept at ``sparsity``: the nearest integer."""
    return round((1 - sparsity) * num_weights)


def highest(scores: Tensor, num_kept: int) -> Tensor:
    """Return where the ``num_kept`` highest of the flat ``scores`` are; the first win ties.

    Args:
        scores: ``(N,)``, any float dtype, without NaN.
        num_kept: From 0 to N.

    Returns:
        Boolean ``(N,)``, exactly ``num_kept`` of them True.
    """
    num_pruned = scores.numel() - num_kept
    if num_pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # The lowest kept score is not needed: everything above the highest pruned one is kept.
    threshold = scores.kthvalue(num_pruned).values
    kept = scores > threshold
    ties = (scores == threshold).nonzero().squeeze(1)
    kept[ties[: num_kept - int(kept.sum())]] = True
    return kept


@torch.no_grad()
def prune_globally(network: nn.Module, sparsity: float) -> None:
    """Set the smallest weights of the whole network to zero, in place (Han et al. 2015).

    Exactly ``round((1 - sparsity) * N)`` of the ``N`` prunable weights are kept: those with the
    largest absolute values; among equals those that come first in the network.
    """
    weights = list(prunable_weights(network).values())
    magnitudes = torch.cat([weight.abs().float().reshape(-1) for weight in weights])
    kept = highest(magnitudes, num_weights_kept(len(magnitudes), sparsity))
    for weight, piece in zip(weights, kept.split([w.numel() for w in weights]), strict=True):
        weight.masked_fill_(~piece.view(weight.shape), 0.0)
