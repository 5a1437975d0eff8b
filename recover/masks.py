"""Which weights are kept: boolean masks that we own, with an exact count.

No hooks, no extra buffers, no renamed parameters (unlike ``torch.nn.utils.prune``): the network
stays the dense one, with zeros in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.distributed import digest_of
from shared.magnitude import highest, prunable_weights
from shared.magnitude import num_weights_kept as num_weights_kept  # others look for it here
from shared.optimizers import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCount:
    """One line of the table of layers: how many of a weight's entries are kept."""

    name: str
    shape: tuple[int, ...]
    kept: int


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The kept positions (True) of every prunable weight, by state-dict name.

    Attributes:
        kept: Boolean tensors in the shapes and on the device of the weights.
        num_kept: How many are True, over all weights.
    """

    kept: Mapping[str, Tensor]
    num_kept: int

    @property
    def num_weights(self) -> int:
        """How many weights are prunable."""
        return sum(mask.numel() for mask in self.kept.values())

    @property
    def sparsity(self) -> float:
        """The fraction of prunable weights that is pruned, in [0, 1)."""
        return 1 - self.num_kept / self.num_weights

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Set the pruned weights of ``network`` to zero."""
        weights = prunable_weights(network)
        for name, mask in self.kept.items():
            weights[name].masked_fill_(~mask, 0.0)

    @torch.no_grad()
    def apply_to_gradients(self, network: nn.Module) -> None:
        """Set the gradients of pruned weights to zero.

        With zero weights and zero momentum to start from, every SGD step then leaves the pruned
        weights at exactly zero: momentum, Nesterov and weight decay only ever see zeros.
        """
        weights = prunable_weights(network)
        for name, mask in self.kept.items():
            gradient = weights[name].grad
            if gradient is not None:
                gradient.mul_(mask)

    @torch.no_grad()
    def apply_to_optimizer(self, optimizer: Optimizer, network: nn.Module) -> None:
        """Set the momentum of pruned weights to zero, so that nothing pushes them back."""
        weights = prunable_weights(network)
        for name, mask in self.kept.items():
            momentum = optimizer.state[weights[name]].get("momentum_buffer")
            if momentum is not None:
                momentum.masked_fill_(~mask, 0.0)

    def check(self, network: nn.Module) -> None:
        """Assert that every pruned weight of ``network`` is zero: called before every save."""
        weights = prunable_weights(network)
        counted = 0
        for name, mask in self.kept.items():
            counted += int(mask.sum())
            revived = int(weights[name].detach().masked_fill(mask, 0.0).count_nonzero())
            assert revived == 0, f"{name}: {revived} pruned weights are not zero"
        assert counted == self.num_kept, f"{counted} weights are kept, expected {self.num_kept}"

    def digest(self) -> int:
        """Return 63 bits that differ, but by chance, where any mask does."""
        return digest_of(mask.cpu().numpy().tobytes() for mask in self.kept.values())

    def layers(self) -> list[LayerCount]:
        """Return one line per weight, in the order of the network."""
        return [
            LayerCount(name=name, shape=tuple(mask.shape), kept=int(mask.sum()))
            for name, mask in self.kept.items()
        ]

    def empty_layers(self) -> list[str]:
        """Return the names of weights of which nothing is kept."""
        return [layer.name for layer in self.layers() if layer.kept == 0]


@torch.no_grad()
def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Keep the best-scored weights of the whole network.

    Exactly ``round((1 - sparsity) * N)`` of the ``N`` weights are kept, or all that are not pruned
    yet where these are fewer; among equal scores those that come first, in the order of the mapping
    and of the weights' elements.

    Args:
        scores: Float32 importance by weight, any shapes, all on one device, without NaN; negative
            where pruned.
        sparsity: In [0, 1).
    """
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    num_kept = min(num_weights_kept(flat.numel(), sparsity), int((flat >= 0).sum()))
    kept = highest(flat, num_kept)
    pieces = kept.split([score.numel() for score in scores.values()])
    return Masks(
        {
            name: _shaped_like(score, piece)
            for (name, score), piece in zip(scores.items(), pieces, strict=True)
        },
        num_kept,
    )


@torch.no_grad()
def layerwise_masks(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Masks:
    """Keep the best-scored ``counts[name]`` entries of every weight; among equals the first.

    Args:
        scores: Importance by weight, any shapes, without NaN.
        counts: For every weight, from 0 to its number of entries.
    """
    kept = {
        name: _shaped_like(score, highest(score.reshape(-1), counts[name]))
        for name, score in scores.items()
    }
    return Masks(kept, sum(counts[name] for name in scores))


def dense_masks(network: nn.Module) -> Masks:
    """Return the masks that keep everything."""
    kept = {
        name: torch.ones_like(weight, dtype=torch.bool, requires_grad=False)
        for name, weight in prunable_weights(network).items()
    }
    return Masks(kept, sum(mask.numel() for mask in kept.values()))


def num_nonzero(network: nn.Module) -> int:
    """Return how many prunable weights of ``network`` are not zero."""
    return sum(
        int(weight.detach().count_nonzero()) for weight in prunable_weights(network).values()
    )


def _shaped_like(score: Tensor, kept: Tensor) -> Tensor:
    # In the score's memory format, so that masking never crosses formats.
    return torch.empty_like(score, dtype=torch.bool).copy_(kept.view(score.shape))
