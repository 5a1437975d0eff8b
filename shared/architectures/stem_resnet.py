"""ImageNet's ResNets with a stem for 32x32 images: 3x3, stride 1, no max pooling.

``cifar_resnet18`` has torchvision's tensor names, ``kuangliu_resnet18`` those of
kuangliu/pytorch-cifar (``shortcut.0``, ``linear``). ``cifar_resnet18_pool`` is what comes of
replacing the first convolution of torchvision's network alone: its max pooling is still there.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures.candidate import Candidate
from shared.architectures.he_resnet import BasicBlock, SmallResNet, make_shortcut

NUM_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around which the input is carried; the 3x3 has the stride."""

    def __init__(self, in_channels: int, width: int, stride: int, option: str, skip: str) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.skip = skip
        self.add_module(skip, make_shortcut(in_channels, out_channels, stride, option))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 4 * width, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.get_submodule(self.skip)(x))


def stem_resnet(
    num_classes: int, *, depth: int, skip: str, head: str, pools: bool = False
) -> SmallResNet:
    """Return the ResNet of that ``depth`` with the CIFAR stem, perhaps with ImageNet's pooling."""
    block, expansion = (BasicBlock, 1) if depth < 50 else (Bottleneck, 4)
    return SmallResNet(
        block,
        (64, 128, 256, 512),
        NUM_BLOCKS[depth],
        num_classes,
        option="B",
        skip=skip,
        head=head,
        expansion=expansion,
        pools=pools,
    )


def _candidate(
    name: str, depth: int, skip: str, head: str, *, is_rare: bool = False, **options: bool
) -> Candidate:
    marker = (f"layer4.0.{skip}.0.weight", 512 if depth < 50 else 2048)
    if depth > 50 and skip == "downsample":  # torchvision's networks have that one, too
        marker = (f"layer3.{NUM_BLOCKS[depth][2] - 1}.conv3.weight", 1024)
    build = partial(stem_resnet, depth=depth, skip=skip, head=head, **options)
    return Candidate(name=name, build=build, marker=marker, is_rare=is_rare)


def _pooling(depth: int) -> Candidate:
    name = f"cifar_resnet{depth}_pool"
    return _candidate(name, depth, "downsample", "fc", is_rare=True, pools=True)


CANDIDATES = (
    *(_candidate(f"cifar_resnet{depth}", depth, "downsample", "fc") for depth in NUM_BLOCKS),
    *(_candidate(f"kuangliu_resnet{depth}", depth, "shortcut", "linear") for depth in NUM_BLOCKS),
    *(_pooling(depth) for depth in NUM_BLOCKS),
)
