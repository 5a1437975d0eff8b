"""DenseNets with a 3x3 stem for 32x32 images, under the tensor names of kuangliu/pytorch-cifar.

Huang et al. 2017 (arXiv:1608.06993), table 1 (DenseNet-BC): each layer adds ``growth`` channels
to those before it, here in front of them, and each transition halves channels and size.
``kuangliu_densenet121_k12`` is that repository's ``densenet_cifar``, of growth 12.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate

# layers of the four blocks, growth
SIZES = {
    "kuangliu_densenet121": ((6, 12, 24, 16), 32),
    "kuangliu_densenet169": ((6, 12, 32, 32), 32),
    "kuangliu_densenet201": ((6, 12, 48, 32), 32),
    "kuangliu_densenet161": ((6, 12, 36, 24), 48),
    "kuangliu_densenet121_k12": ((6, 12, 24, 16), 12),
}


class DenseLayer(nn.Module):
    """BatchNorm and ReLU before a 1x1 and a 3x3 convolution, whose channels come before x's."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, growth + in, H, W)``."""
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        return torch.cat((y, x), 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, a 1x1 convolution to half the channels, and the mean of 2x2 pixels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, in // 2, H / 2, W / 2)``."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class SmallDenseNet(nn.Module):
    """A 3x3 stem, four blocks of dense layers with transitions between, average, one linear."""

    def __init__(self, num_classes: int, *, num_layers: tuple[int, ...], growth: int) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.num_blocks = len(num_layers)
        for block, count in enumerate(num_layers, start=1):
            layers = nn.Sequential()
            for _ in range(count):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            self.add_module(f"dense{block}", layers)
            if block < self.num_blocks:
                self.add_module(f"trans{block}", Transition(channels))
                channels //= 2
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = self.get_submodule("dense1")(self.conv1(inputs))
        for block in range(2, self.num_blocks + 1):
            x = self.get_submodule(f"trans{block - 1}")(x)
            x = self.get_submodule(f"dense{block}")(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


CANDIDATES = tuple(
    Candidate(
        name=name,
        build=partial(SmallDenseNet, num_layers=num_layers, growth=growth),
        marker=(f"dense4.{num_layers[-1] - 1}.conv2.weight", growth),
    )
    for name, (num_layers, growth) in SIZES.items()
)
