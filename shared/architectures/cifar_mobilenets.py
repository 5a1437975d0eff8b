"""MobileNets for 32x32 images, under the tensor names of kuangliu/pytorch-cifar.

Version 1: Howard et al. 2017 (arXiv:1704.04861), table 1, with stride 1 in the stem. Version 2:
Sandler et al. 2018 (arXiv:1801.04381), table 2, with stride 1 in the stem and in the stage of 24
channels; unlike the paper's, a block of stride 1 that changes the number of channels is carried
around too, through a 1x1 convolution with BatchNorm.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate
from shared.architectures.he_resnet import make_shortcut

# channels, stride
_V1_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
# expansion, channels, blocks, stride
_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _V2_FEATURES = 32, 1280


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


class SeparableBlock(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution of them all."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _depthwise(in_channels, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, out, H / stride, W / stride)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class MobileNetV1(nn.Module):
    """A 3x3 stem, thirteen blocks that reduce 32x32 to 2x2, global average, one linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = _STEM
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layers = nn.Sequential()
        for width, stride in _V1_BLOCKS:
            self.layers.append(SeparableBlock(channels, width, stride))
            channels = width
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = self.layers(F.relu(self.bn1(self.conv1(inputs))))
        return self.linear(x.mean((2, 3)))


class InvertedBlock(nn.Module):
    """1x1, 3x3 depthwise and 1x1 convolutions, no ReLU behind; carried around at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _depthwise(width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            make_shortcut(in_channels, out_channels, stride, "B") if stride == 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, out, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return y if self.shortcut is None else y + self.shortcut(x)


class MobileNetV2(nn.Module):
    """A 3x3 stem, seventeen blocks that reduce 32x32 to 4x4, a 1x1 convolution, average, linear."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = _STEM
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layers = nn.Sequential()
        for expansion, width, count, stride in _V2_STAGES:
            for index in range(count):
                block = InvertedBlock(channels, width, expansion, stride if index == 0 else 1)
                self.layers.append(block)
                channels = width
        self.conv2 = nn.Conv2d(channels, _V2_FEATURES, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_V2_FEATURES)
        self.linear = nn.Linear(_V2_FEATURES, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = self.layers(F.relu(self.bn1(self.conv1(inputs))))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(x.mean((2, 3)))


CANDIDATES = (
    Candidate(
        name="cifar_mobilenet_v1", build=MobileNetV1, marker=("layers.12.conv2.weight", 1024)
    ),
    Candidate(
        name="kuangliu_mobilenet_v2", build=MobileNetV2, marker=("layers.16.conv3.weight", 320)
    ),
)
