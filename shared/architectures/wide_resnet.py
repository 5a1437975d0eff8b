"""Wide residual networks with pre-activation for 32x32 images.

Zagoruyko and Komodakis 2016 (arXiv:1605.07146); tensor names as in xternalz/WideResNet-pytorch,
whose code the data-free distillation literature shares.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate

SIZES = ((16, 1), (16, 2), (40, 1), (40, 2), (16, 4), (28, 10))  # (depth, width factor)


class PreactBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut = (
            None
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, out, H / stride, W / stride)``."""
        activated = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return y + (x if self.convShortcut is None else self.convShortcut(activated))


class Stage(nn.Module):
    """Blocks in a row, under the name ``layer``."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(PreactBlock(in_channels, out_channels, stride))
        for _ in range(num_blocks - 1):
            self.layer.append(PreactBlock(out_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the last block's output."""
        return self.layer(x)


class WideResNet(nn.Module):
    """``depth = 6n + 4`` layers, three stages of 16, 32 and 64 times ``factor`` channels."""

    def __init__(self, num_classes: int, *, depth: int, factor: int) -> None:
        super().__init__()
        num_blocks = (depth - 4) // 6
        widths = (16, 16 * factor, 32 * factor, 64 * factor)
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.block1 = Stage(widths[0], widths[1], num_blocks, 1)
        self.block2 = Stage(widths[1], widths[2], num_blocks, 2)
        self.block3 = Stage(widths[2], widths[3], num_blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = self.block3(self.block2(self.block1(self.conv1(inputs))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


CANDIDATES = tuple(
    Candidate(
        name=f"wrn_{depth}_{factor}",
        build=partial(WideResNet, depth=depth, factor=factor),
        marker=(f"block3.layer.{(depth - 4) // 6 - 1}.conv2.weight", 64 * factor),
    )
    for depth, factor in SIZES
)
