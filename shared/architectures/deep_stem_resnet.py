"""ImageNet's ResNet-101 and 152 with a stem for 32x32 images, as :mod:`.stem_resnet` has smaller.

He et al. 2016 (arXiv:1512.03385), table 1. ``cifar_*`` have torchvision's tensor names,
``kuangliu_*`` those of kuangliu/pytorch-cifar (``shortcut.0``, ``linear``).
"""

from functools import partial

from shared.architectures.candidate import Candidate
from shared.architectures.he_resnet import SmallResNet
from shared.architectures.stem_resnet import Bottleneck

NUM_BLOCKS = {101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def deep_stem_resnet(num_classes: int, *, depth: int, skip: str, head: str) -> SmallResNet:
    """Return the ResNet of ``depth`` 101 or 152 that reduces 32x32 to 4x4 before the average."""
    return SmallResNet(
        Bottleneck,
        (64, 128, 256, 512),
        NUM_BLOCKS[depth],
        num_classes,
        option="B",
        skip=skip,
        head=head,
        expansion=4,
    )


def _candidate(name: str, depth: int, skip: str, head: str, marker: str) -> Candidate:
    build = partial(deep_stem_resnet, depth=depth, skip=skip, head=head)
    return Candidate(name=name, build=build, marker=(marker, 2048 if "layer4" in marker else 1024))


CANDIDATES = (
    *(
        _candidate(
            *(f"cifar_resnet{depth}", depth, "downsample", "fc"),
            marker=f"layer3.{counts[2] - 1}.conv3.weight",
        )
        for depth, counts in NUM_BLOCKS.items()
    ),
    *(
        _candidate(
            *(f"kuangliu_resnet{depth}", depth, "shortcut", "linear"),
            marker="layer4.0.shortcut.0.weight",
        )
        for depth in NUM_BLOCKS
    ),
)
