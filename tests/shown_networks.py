"""Networks whose BatchNorm layers have been shown images of known scale."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from shared.architectures import build_network
from shared.input_scale import CONVENTIONS
from shared.scenes import draw_scenes

SHAPE = (3, 32, 32)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT, SYMMETRIC, BYTES = (((c.mean,) * 3, (c.std,) * 3) for c in CONVENTIONS)


def photographs() -> Tensor:
    """Pixels in [0, 1] with about the mean and spread of CIFAR-10's."""
    scenes = draw_scenes(64, SHAPE, torch.Generator().manual_seed(3))
    tint = torch.tensor([0.49, 0.48, 0.45]).view(1, 3, 1, 1)
    return (tint + 0.25 * scenes).clamp(0, 1)


def network_shown(
    mean: Sequence[float],
    std: Sequence[float],
    name: str = "resnet8",
    seed: int = 0,
    *,
    gray: bool = False,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A network whose BatchNorm layers have seen the photographs, scaled so."""
    torch.manual_seed(seed)
    network = build_network(name, num_classes=10)
    if weights is not None:
        network.load_state_dict(weights)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    column = (3, 1, 1)
    pixels = photographs()
    if gray:
        pixels = pixels.mean(1, keepdim=True).expand_as(pixels)
    inputs = (pixels - torch.tensor(mean).view(column)) / torch.tensor(std).view(column)
    with torch.no_grad():
        network.train()(inputs)
    return network.eval()
