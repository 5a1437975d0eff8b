"""torchvision's larger networks for 32x32 images: their stems no longer reduce fourfold.

The first convolution has stride 1, 3x3 where it was 7x7, and the max pooling behind it is gone,
as in He et al. 2016 (arXiv:1512.03385), section 4.2. All other tensors keep torchvision's names
and shapes; ShuffleNet's are the same throughout, since strides leave no trace in them.
"""

from functools import partial

from torch import nn

from shared.architectures.candidate import Candidate

# torchvision's name -> its first convolution, its pooling, and a tensor that it alone has
_STEMS = {
    "densenet121": (
        *("features.conv0", "features.pool0"),
        ("features.transition3.conv.weight", 512),
    ),
    "shufflenet_v2_x1_0": ("conv1.0", "maxpool", ("stage4.3.branch2.5.weight", 232)),
    "wide_resnet50_2": ("conv1", "maxpool", ("layer4.2.conv2.weight", 1024)),
}


def gentle_stem(num_classes: int, *, name: str) -> nn.Module:
    """Return torchvision's network ``name`` that reduces 32x32 to 4x4 before the average."""
    from torchvision import models  # slow to import

    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    stem, pooling, _ = _STEMS[name]
    old = network.get_submodule(stem)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    network.set_submodule(stem, new)
    network.set_submodule(pooling, nn.Identity())
    return network


CANDIDATES = tuple(
    Candidate(name=f"cifar_{name}", build=partial(gentle_stem, name=name), marker=marker)
    for name, (_, _, marker) in _STEMS.items()
)
