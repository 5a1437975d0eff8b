"""How strongly the loss answers to each weight: its mean squared gradient over the last steps.

The mean squared gradient is the diagonal of the empirical Fisher information, which stands in for
the loss's second derivatives near a minimum: taking away a weight ``w`` costs about
``w^2 E[g^2] / 2`` (LeCun et al. 1990, "Optimal brain damage"; Theis et al. 2018, arXiv:1801.05787,
eq. 7). Here ``g`` is the gradient of a batch and not of an image, since that is there anyway.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recover.cut import Cut
from shared.magnitude import prunable_weights

# What is left of the mean after one more step: it looks back some fifty steps. Over ten (0.9) the
# gain at 98 % was less than half as large, or none (benchmarks/RESULTS.md).
DECAY = 0.98


class SquaredGradients:
    """The running mean of every prunable weight's squared gradient.

    Only ratios count, so that the mean, which starts at zero, is not corrected for it.

    Attributes:
        means: By weight, in its shape, dtype and memory format; zeros before the first update.

    Args:
        network: Whose gradients are taken.
    """

    def __init__(self, network: nn.Module) -> None:
        self.means = {
            name: torch.zeros_like(weight, requires_grad=False)
            for name, weight in prunable_weights(network).items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the gradients that are there now; weights without one have none."""
        weights = prunable_weights(network)
        for name, average in self.means.items():
            gradient = weights[name].grad
            average.mul_(DECAY)
            if gradient is not None:
                average.addcmul_(gradient, gradient, value=1 - DECAY)

    def cut(self, cut: Cut) -> None:
        """Forget the weights that ``cut`` removes."""
        self.means = {name: cut.of(name, average) for name, average in self.means.items()}

    def restore(self, means: Mapping[str, Tensor]) -> None:
        """Go on from the ``means`` of a checkpoint."""
        self.means = {
            name: means[name].to(average, copy=True) for name, average in self.means.items()
        }
