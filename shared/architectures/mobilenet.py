"""MobileNetV2 for 32x32 images: torchvision's network, its first two reductions left out.

Sandler et al. 2018 (arXiv:1801.04381), table 2, with stride 1 in the stem and in the stage of 24
channels, as CIFAR versions do. Strides leave no trace in the tensors: such a checkpoint looks
like torchvision's ``mobilenet_v2``.
"""

from torch import nn

from shared.architectures.candidate import Candidate

# expansion, channels, blocks, stride
_STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def cifar_mobilenet_v2(num_classes: int) -> nn.Module:
    """Return MobileNetV2 of width 1 that reduces 32x32 to 4x4 before the average."""
    from torchvision.models import mobilenet_v2  # slow to import

    network: nn.Module = mobilenet_v2(num_classes=num_classes, inverted_residual_setting=_STAGES)
    stem = network.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    return network


CANDIDATES = (
    Candidate(
        name="cifar_mobilenet_v2",
        build=cifar_mobilenet_v2,
        marker=("features.18.0.weight", 1280),
    ),
)
