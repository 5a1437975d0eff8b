"""ResNets of basic blocks for small images, their skip connections under the name of one's choice.

He et al. 2016 (arXiv:1512.03385), section 4.2: 6n+2 layers, three stages of 16, 32 and 64
channels. Option A shortcuts (subsample, pad with zero channels) have no parameters; option B
shortcuts are 1x1 convolutions with BatchNorm. Where the zero channels come, the paper leaves open:
most implementations put half of them on either side, some all of them behind.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate

DEPTHS = (8, 14, 20, 32, 44, 56, 110)


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, new channels zero, half of them on either side or all last.

    How many there are, the block says that it belongs to: it may have lost channels since.
    """

    follows_widths = True  # see recover.coupling

    def __init__(self, stride: int, *, at_end: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.at_end = at_end

    def forward(self, x: Tensor, num_channels: int) -> Tensor:
        """Return ``(N, num_channels, H / stride, W / stride)`` of ``(N, in, H, W)``."""
        missing = num_channels - x.shape[1]
        before = 0 if self.at_end else missing // 2
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, missing - before)
        )


def make_shortcut(in_channels: int, out_channels: int, stride: int, option: str) -> nn.Module:
    """Return the skip connection: identity where shapes agree, else option A, A-end or B."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    if option != "B":
        return ZeroPadShortcut(stride, at_end=option == "A-end")
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def add_skipped(shortcut: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return what a block makes of ``x``, ``y``, plus what its skip connection makes of it."""
    if isinstance(shortcut, ZeroPadShortcut):
        return y + shortcut(x, y.shape[1])
    return y + shortcut(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is carried."""

    def __init__(
        self, in_channels: int, width: int, stride: int, option: str, skip: str = "shortcut"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.skip = skip
        self.add_module(skip, make_shortcut(in_channels, width, stride, option))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(add_skipped(self.get_submodule(self.skip), x, y))


class SmallResNet(nn.Module):
    """A 3x3 stem, stages of blocks each half the size of the last, global average, one linear.

    Args:
        block: ``BasicBlock`` or a class with its signature.
        widths: Channels per stage, before expansion.
        num_blocks: Blocks per stage.
        num_classes: Length of the logits.
        option: The shortcuts where the shape changes: ``A``, ``A-end`` (new channels last), ``B``.
        skip: Name of the shortcut in its block, as the checkpoints of this family have it.
        head: Name of the last linear layer.
        expansion: How many times its width a block puts out.
        pools: Whether the stem ends in ImageNet's max pooling.
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        widths: Sequence[int],
        num_blocks: Sequence[int],
        num_classes: int,
        *,
        option: str,
        skip: str = "shortcut",
        head: str = "linear",
        expansion: int = 1,
        pools: bool = False,
    ) -> None:
        super().__init__()
        self.pools = pools
        channels = widths[0]
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.num_stages = len(widths)
        for stage, (width, count) in enumerate(zip(widths, num_blocks, strict=True), start=1):
            blocks = nn.Sequential()
            for index in range(count):
                stride = 2 if index == 0 and stage > 1 else 1
                blocks.append(block(channels, width, stride, option, skip))
                channels = width * expansion
            self.add_module(f"layer{stage}", blocks)
        self.head = head
        self.add_module(head, nn.Linear(channels, num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``."""
        x = F.relu(self.bn1(self.conv1(inputs)))
        x = F.max_pool2d(x, 3, stride=2, padding=1) if self.pools else x
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.get_submodule(self.head)(x.mean((2, 3)))


def he_resnet(
    num_classes: int, *, depth: int, option: str, skip: str = "shortcut", head: str = "linear"
) -> SmallResNet:
    """Return the CIFAR ResNet with ``depth = 6n + 2`` layers."""
    num_blocks = [(depth - 2) // 6] * 3
    return SmallResNet(
        BasicBlock, (16, 32, 64), num_blocks, num_classes, option=option, skip=skip, head=head
    )


def _candidate(name: str, depth: int, *, is_rare: bool = False, **options: Any) -> Candidate:
    last = f"layer3.{(depth - 2) // 6 - 1}.conv2.weight"
    build = partial(he_resnet, depth=depth, **options)
    return Candidate(name=name, build=build, marker=(last, 64), is_rare=is_rare)


# resnet20 names its tensors as akamaster/pytorch_resnet_cifar10 does, resnet20_end and _b too, and
# resnet20_fc as chenyaofo/pytorch-cifar-models (option B called "downsample", head "fc").
CANDIDATES = (
    *(_candidate(f"resnet{depth}", depth, option="A") for depth in DEPTHS),
    *(_candidate(f"resnet{depth}_end", depth, option="A-end", is_rare=True) for depth in DEPTHS),
    *(_candidate(f"resnet{depth}_b", depth, option="B") for depth in DEPTHS),
    *(
        _candidate(f"resnet{depth}_fc", depth, option="B", skip="downsample", head="fc")
        for depth in DEPTHS
    ),
)
