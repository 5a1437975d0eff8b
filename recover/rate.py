"""The peak learning rate that suits a network's weights.

What comes behind a BatchNorm does not depend on the scale of the weights before it, so a step of
the same length turns small weights further than large ones: by the square of their scale (van
Laarhoven 2017, arXiv:1706.05350; Zhang et al. 2019, arXiv:1810.12281). Networks trained with more
weight decay have smaller weights. A rate that suits the ones destroys the others.
"""

import math
import statistics

from torch import nn
from torch.nn.modules.conv import _ConvNd

from recover.config import USUAL_RATE

# Of the ResNet-20 that the usual rate was set on, in units of He et al.'s initialisation.
USUAL_SCALE = 1.25
# Down to half that scale the usual rate stays: there a lower one was no better, on a MobileNetV2
# worse (benchmarks/RESULTS.md).
TOLERANCE = 2.0
# What no BatchNorm follows learns at the rate that it is given.
LEAST_FACTOR = 0.02


def weight_scale(network: nn.Module) -> float:
    """Return the median root mean square of convolutions' weights, over that of their start.

    Their start is He et al. 2015's (arXiv:1502.01852): ``sqrt(2 / fan_in)``. Grouped convolutions
    do not count: depthwise ones end far below it. 1.25 where there is none, or all are zero.
    """
    weights = [
        module.weight.detach().double()
        for module in network.modules()
        if isinstance(module, _ConvNd) and module.groups == 1
    ]
    scales = [
        float(weight.square().mean().sqrt()) * math.sqrt(weight[0].numel() / 2)
        for weight in weights
    ]
    found = statistics.median(scales) if scales else 0.0
    return found or USUAL_SCALE


def usual_rate(network: nn.Module) -> float:
    """Return the peak rate: the usual one, less where weights are far smaller; two digits."""
    scale = weight_scale(network)
    if scale * TOLERANCE >= USUAL_SCALE:
        return USUAL_RATE
    factor = max((scale / USUAL_SCALE) ** 2, LEAST_FACTOR)
    return float(f"{USUAL_RATE * factor:.2g}")
