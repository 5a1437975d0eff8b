"""Deep layer aggregation for 32x32 images, under the tensor names of kuangliu/pytorch-cifar.

Yu et al. 2018 (arXiv:1707.06484): trees whose leaves are residual blocks one after the other, and
whose roots, 1x1 convolutions with BatchNorm, take the channels of several of them side by side.
That repository has two: ``cifar_dla`` with roots that take all that their tree passes on, and
``cifar_simple_dla``, what its script trains by default, with two inputs to each root.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate
from shared.architectures.he_resnet import BasicBlock

# channels, levels and stride of the trees, called layer3 to layer6
_TREES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 1, 2))
_PLAIN = (16, 16, 32)  # channels of the convolutions before them


def _block(in_channels: int, channels: int, stride: int) -> BasicBlock:
    return BasicBlock(in_channels, channels, stride, "B")


class Root(nn.Module):
    """A 1x1 convolution of several inputs side by side, BatchNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Return ``(N, out, H, W)`` of inputs of the same height and width."""
        return F.relu(self.bn(self.conv(torch.cat(parts, 1))))


class SimpleTree(nn.Module):
    """Two halves, one after the other; the root takes what both put out."""

    def __init__(self, in_channels: int, channels: int, levels: int, stride: int) -> None:
        super().__init__()
        half = _block if levels == 1 else partial(SimpleTree, levels=levels - 1)
        self.root = Root(2 * channels, channels)
        self.left_tree = half(in_channels, channels, stride=stride)
        self.right_tree = half(channels, channels, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, channels, H / stride, W / stride)``."""
        left = self.left_tree(x)
        return self.root([left, self.right_tree(left)])


class Tree(nn.Module):
    """At level 1 two blocks, whose root takes what each puts out.

    At level 2 they follow a smaller tree, and the root also takes what that puts out, and what a
    block of its own, ``prev_root``, makes of the input.
    """

    def __init__(self, in_channels: int, channels: int, levels: int, stride: int) -> None:
        super().__init__()
        self.is_small = levels == 1
        self.root = Root((2 if self.is_small else 4) * channels, channels)
        if self.is_small:
            self.left_node = _block(in_channels, channels, stride)
        else:
            self.level_1 = Tree(in_channels, channels, 1, stride)
            self.prev_root = _block(in_channels, channels, stride)
            self.left_node = _block(channels, channels, 1)
        self.right_node = _block(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, channels, H / stride, W / stride)``."""
        parts = [] if self.is_small else [self.prev_root(x), self.level_1(x)]
        left = self.left_node(parts[-1] if parts else x)
        return self.root([*parts, left, self.right_node(left)])


class DLA(nn.Module):
    """Three 3x3 convolutions, four trees that reduce 32x32 to 4x4, global average, one linear."""

    def __init__(self, num_classes: int, *, tree: type[Tree] | type[SimpleTree]) -> None:
        super().__init__()
        channels = 3
        for name, width in zip(("base", "layer1", "layer2"), _PLAIN, strict=True):
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.add_module(name, nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            channels = width
        for number, (width, levels, stride) in enumerate(_TREES, start=3):
            self.add_module(f"layer{number}", tree(channels, width, levels, stride))
            channels = width
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = self.get_submodule("base")(inputs)
        for number in range(1, len(_TREES) + 3):
            x = self.get_submodule(f"layer{number}")(x)
        return self.linear(x.mean((2, 3)))


CANDIDATES = (
    Candidate(
        name="cifar_simple_dla",
        build=partial(DLA, tree=SimpleTree),
        marker=("layer6.right_tree.conv2.weight", 512),
    ),
    Candidate(
        name="cifar_dla",
        build=partial(DLA, tree=Tree),
        marker=("layer6.right_node.conv2.weight", 512),
    ),
)
