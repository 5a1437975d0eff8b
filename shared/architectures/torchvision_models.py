"""Every torchvision classifier that has BatchNorm, under torchvision's own names.

torchvision is imported when one of them is built, not before.
"""

from functools import partial
from typing import Any

from torch import nn

from shared.architectures.candidate import Candidate, Preprocessing

# A convolution that few other architectures have under this name and with this many outputs:
# it lets identification build one candidate instead of sixty.
_MARKERS = {
    "densenet121": ("features.transition3.conv.weight", 512),
    "densenet161": ("features.denseblock4.denselayer24.conv2.weight", 48),
    "densenet169": ("features.transition3.conv.weight", 640),
    "densenet201": ("features.transition3.conv.weight", 896),
    "efficientnet_b0": ("features.7.0.block.3.0.weight", 320),
    "efficientnet_b1": ("features.7.1.block.3.0.weight", 320),
    "efficientnet_b2": ("features.8.0.weight", 1408),
    "efficientnet_b3": ("features.8.0.weight", 1536),
    "efficientnet_b4": ("features.8.0.weight", 1792),
    "efficientnet_b5": ("features.8.0.weight", 2048),
    "efficientnet_b6": ("features.8.0.weight", 2304),
    "efficientnet_b7": ("features.8.0.weight", 2560),
    "efficientnet_v2_l": ("features.7.6.block.3.0.weight", 640),
    "efficientnet_v2_m": ("features.7.4.block.3.0.weight", 512),
    "efficientnet_v2_s": ("features.7.0.weight", 1280),
    "googlenet": ("inception5b.branch4.1.conv.weight", 128),
    "inception_v3": ("Mixed_7c.branch_pool.conv.weight", 192),
    "maxvit_t": ("blocks.3.layers.1.layers.MBconv.layers.conv_c.weight", 512),
    "mnasnet0_5": ("layers.13.0.layers.6.weight", 160),
    "mnasnet0_75": ("layers.13.0.layers.6.weight", 240),
    "mnasnet1_0": ("layers.13.0.layers.6.weight", 320),
    "mnasnet1_3": ("layers.13.0.layers.6.weight", 416),
    "mobilenet_v2": ("features.18.0.weight", 1280),
    "mobilenet_v3_large": ("features.16.0.weight", 960),
    "mobilenet_v3_small": ("features.12.0.weight", 576),
    "regnet_x_16gf": ("trunk_output.block4.block4-0.f.c.0.weight", 2048),
    "regnet_x_1_6gf": ("trunk_output.block4.block4-1.f.c.0.weight", 912),
    "regnet_x_32gf": ("trunk_output.block4.block4-0.f.c.0.weight", 2520),
    "regnet_x_3_2gf": ("trunk_output.block4.block4-1.f.c.0.weight", 1008),
    "regnet_x_400mf": ("trunk_output.block4.block4-11.f.c.0.weight", 400),
    "regnet_x_800mf": ("trunk_output.block4.block4-4.f.c.0.weight", 672),
    "regnet_x_8gf": ("trunk_output.block4.block4-0.f.c.0.weight", 1920),
    "regnet_y_128gf": ("trunk_output.block4.block4-0.f.c.0.weight", 7392),
    "regnet_y_16gf": ("trunk_output.block4.block4-0.f.c.0.weight", 3024),
    "regnet_y_1_6gf": ("trunk_output.block4.block4-1.f.c.0.weight", 888),
    "regnet_y_32gf": ("trunk_output.block4.block4-0.f.c.0.weight", 3712),
    "regnet_y_3_2gf": ("trunk_output.block4.block4-0.f.c.0.weight", 1512),
    "regnet_y_400mf": ("trunk_output.block4.block4-5.f.c.0.weight", 440),
    "regnet_y_800mf": ("trunk_output.block4.block4-1.f.c.0.weight", 784),
    "regnet_y_8gf": ("trunk_output.block4.block4-0.f.c.0.weight", 2016),
    "resnet101": ("layer3.22.conv2.weight", 256),
    "resnet152": ("layer3.35.conv3.weight", 1024),
    "resnet18": ("layer4.0.downsample.0.weight", 512),
    "resnet34": ("layer4.0.downsample.0.weight", 512),
    "resnet50": ("layer4.2.conv2.weight", 512),
    "resnext101_32x8d": ("layer4.2.conv2.weight", 2048),
    "resnext101_64x4d": ("layer4.2.conv2.weight", 2048),
    "resnext50_32x4d": ("layer4.2.conv2.weight", 1024),
    "shufflenet_v2_x0_5": ("stage4.3.branch2.5.weight", 96),
    "shufflenet_v2_x1_0": ("stage4.3.branch2.5.weight", 232),
    "shufflenet_v2_x1_5": ("stage4.3.branch2.5.weight", 352),
    "shufflenet_v2_x2_0": ("conv5.0.weight", 2048),
    "vgg11_bn": ("features.18.weight", 512),
    "vgg13_bn": ("features.21.weight", 512),
    "vgg16_bn": ("features.40.weight", 512),
    "vgg19_bn": ("features.49.weight", 512),
    "wide_resnet101_2": ("layer3.22.conv2.weight", 512),
    "wide_resnet50_2": ("layer4.2.conv2.weight", 1024),
}
# Built without auxiliary classifiers: they do nothing at inference, and torchvision's own
# initialisation of these two takes a minute.
_WITHOUT_AUXILIARY = {"init_weights": False, "aux_logits": False}
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def torchvision_model(num_classes: int, *, name: str) -> nn.Module:
    """Return torchvision's network ``name``, randomly initialised."""
    from torchvision import models

    options: dict[str, Any] = dict(_WITHOUT_AUXILIARY) if name in _AUXILIARY else {}
    return models.get_model(name, weights=None, num_classes=num_classes, **options)


def torchvision_preprocessing(name: str) -> Preprocessing:
    """Return crop size, mean and std of torchvision's default weights for ``name``."""
    if name in _AUXILIARY:
        # With its weights torchvision sets transform_input, which turns ImageNet-normalised
        # inputs back into (pixels - 0.5) / 0.5; said directly, it needs no such flag.
        half = (0.5, 0.5, 0.5)
        size = (299, 299) if name == "inception_v3" else (224, 224)
        return Preprocessing(size=size, mean=half, std=half)
    from torchvision import models

    transform = models.get_model_weights(name).DEFAULT.transforms()
    size = transform.crop_size[0]
    return Preprocessing(size=(size, size), mean=tuple(transform.mean), std=tuple(transform.std))


def torchvision_candidate(name: str, marker: tuple[str, int]) -> Candidate:
    """Return the candidate of torchvision's network ``name``."""
    return Candidate(
        name=name,
        build=partial(torchvision_model, name=name),
        marker=marker,
        usual=partial(torchvision_preprocessing, name),
        left_out=_AUXILIARY.get(name, ()),
    )


CANDIDATES = tuple(torchvision_candidate(*each) for each in _MARKERS.items())
