"""ResNeXt-29 for 32x32 images, under the tensor names of kuangliu/pytorch-cifar.

Xie et al. 2017 (arXiv:1611.05431), section 5.3, as that repository has it: a 1x1 stem, and blocks
that put out twice as many channels as their grouped convolution has.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate
from shared.architectures.he_resnet import make_shortcut

SIZES = ((2, 64), (4, 64), (8, 64), (32, 4))  # groups, channels of each in the first stage
_NUM_STAGES, _NUM_BLOCKS, _EXPANSION = 3, 3, 2
_STEM = 64


class GroupedBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions around which the input is carried."""

    def __init__(self, in_channels: int, width: int, groups: int, stride: int) -> None:
        super().__init__()
        out_channels = _EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, "B")

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 2 * width, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class SmallResNeXt(nn.Module):
    """A 1x1 stem, three stages of three blocks that reduce 32x32 to 8x8, average, one linear."""

    def __init__(self, num_classes: int, *, groups: int, group_width: int) -> None:
        super().__init__()
        channels, width = _STEM, groups * group_width
        self.conv1 = nn.Conv2d(3, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage in range(1, _NUM_STAGES + 1):
            blocks = nn.Sequential()
            for index in range(_NUM_BLOCKS):
                stride = 2 if index == 0 and stage > 1 else 1
                blocks.append(GroupedBlock(channels, width, groups, stride))
                channels = _EXPANSION * width
            self.add_module(f"layer{stage}", blocks)
            width *= 2
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = F.relu(self.bn1(self.conv1(inputs)))
        for stage in range(1, _NUM_STAGES + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


CANDIDATES = tuple(
    Candidate(
        name=f"cifar_resnext29_{groups}x{width}d",
        build=partial(SmallResNeXt, groups=groups, group_width=width),
        marker=("layer3.0.shortcut.0.weight", 8 * groups * width),
    )
    for groups, width in SIZES
)
