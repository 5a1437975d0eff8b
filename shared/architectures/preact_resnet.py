"""Pre-activation ResNets with a 3x3 stem for 32x32 images, and SENet-18, built of the same blocks.

He et al. 2016 (arXiv:1603.05027): BatchNorm and ReLU stand before each convolution, and the
shortcuts, 1x1 convolutions without BatchNorm, take what the first of them puts out. Hu et al. 2018
(arXiv:1709.01507) weigh the channels of each block by what a bottleneck of a sixteenth of the
channels makes of their means. Tensor names are those of kuangliu/pytorch-cifar: nothing
normalises after the last block, and after the stem SENet alone does.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate
from shared.architectures.he_resnet import SmallResNet
from shared.architectures.stem_resnet import NUM_BLOCKS

WIDTHS = (64, 128, 256, 512)
_SQUEEZED = 16  # times fewer channels in the bottleneck that weighs them


class PreactBlock(nn.Module):
    """BatchNorm and ReLU before each of two or three convolutions, around which x is carried.

    Args:
        in_channels: Of the input.
        layers: Channels that each convolution puts out, and its kernel's size.
        stride: Of the first 3x3 convolution and of the shortcut.
        squeezes: Channels are weighed before they are added.
    """

    def __init__(
        self,
        in_channels: int,
        layers: Sequence[tuple[int, int]],
        stride: int,
        *,
        squeezes: bool = False,
    ) -> None:
        super().__init__()
        self.num_layers = len(layers)
        strided = [kernel for _, kernel in layers].index(3)
        channels = in_channels
        for index, (width, kernel) in enumerate(layers):
            convolution = nn.Conv2d(
                channels,
                width,
                kernel,
                stride=stride if index == strided else 1,
                padding=kernel // 2,
                bias=False,
            )
            self.add_module(f"bn{index + 1}", nn.BatchNorm2d(channels))
            self.add_module(f"conv{index + 1}", convolution)
            channels = width
        self.shortcut = (
            None
            if stride == 1 and in_channels == channels
            else nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False))
        )
        self.squeezes = squeezes
        if squeezes:
            self.fc1 = nn.Conv2d(channels, channels // _SQUEEZED, 1)
            self.fc2 = nn.Conv2d(channels // _SQUEEZED, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, out, H / stride, W / stride)``."""
        activated = y = F.relu(self.get_submodule("bn1")(x))
        y = self.get_submodule("conv1")(y)
        for index in range(2, self.num_layers + 1):
            y = F.relu(self.get_submodule(f"bn{index}")(y))
            y = self.get_submodule(f"conv{index}")(y)
        if self.squeezes:
            weights = F.relu(self.fc1(F.adaptive_avg_pool2d(y, 1)))
            y = y * self.fc2(weights).sigmoid()
        return y + (x if self.shortcut is None else self.shortcut(activated))


def _basic(
    in_channels: int, width: int, stride: int, *_names: str, squeezes: bool = False
) -> PreactBlock:
    return PreactBlock(in_channels, [(width, 3), (width, 3)], stride, squeezes=squeezes)


def _bottleneck(in_channels: int, width: int, stride: int) -> PreactBlock:
    return PreactBlock(in_channels, [(width, 1), (width, 3), (4 * width, 1)], stride)


class PreactResNet(nn.Module):
    """A 3x3 convolution, four stages each half the size of the last, global average, one linear."""

    def __init__(self, num_classes: int, *, depth: int) -> None:
        super().__init__()
        block, expansion = (_basic, 1) if depth < 50 else (_bottleneck, 4)
        channels = WIDTHS[0]
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for stage, (width, count) in enumerate(zip(WIDTHS, NUM_BLOCKS[depth], strict=True)):
            blocks = nn.Sequential()
            for index in range(count):
                blocks.append(block(channels, width, 2 if index == 0 and stage > 0 else 1))
                channels = width * expansion
            self.add_module(f"layer{stage + 1}", blocks)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = self.conv1(inputs)
        for stage in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


def senet18(num_classes: int) -> SmallResNet:
    """Return SENet-18: BatchNorm and ReLU after the stem, then blocks that weigh channels."""
    block = partial(_basic, squeezes=True)
    return SmallResNet(block, WIDTHS, NUM_BLOCKS[18], num_classes, option="B")


# The first BatchNorm of a block has as many channels as the block before puts out; where it comes
# after a convolution, it has fewer (bottlenecks) or more.
_MARKERS = {
    18: ("layer4.0.bn1.weight", 256),
    34: ("layer4.0.bn1.weight", 256),
    50: ("layer4.0.bn1.weight", 1024),
    101: ("layer3.22.bn1.weight", 1024),
    152: ("layer3.35.bn1.weight", 1024),
}
CANDIDATES = (
    *(
        Candidate(
            name=f"cifar_preact_resnet{depth}",
            build=partial(PreactResNet, depth=depth),
            marker=marker,
        )
        for depth, marker in _MARKERS.items()
    ),
    Candidate(name="cifar_senet18", build=senet18, marker=("layer4.1.fc1.weight", 32)),
)
