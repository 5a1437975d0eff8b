"""torchvision's classifiers without BatchNorm, under torchvision's own names.

They cannot be inverted; students of them are taught on images that are there.
"""

from shared.architectures.torchvision_models import torchvision_candidate

# As in torchvision_models: a tensor that few others have, so that few are built.
_MARKERS = {
    "alexnet": ("classifier.1.weight", 4096),
    "convnext_tiny": ("features.5.8.block.0.weight", 384),
    "convnext_small": ("features.5.26.block.0.weight", 384),
    "convnext_base": ("features.5.26.block.0.weight", 512),
    "convnext_large": ("features.5.26.block.0.weight", 768),
    "squeezenet1_0": ("features.12.expand3x3.weight", 256),
    "squeezenet1_1": ("features.12.expand3x3.weight", 256),
    "swin_t": ("features.5.5.mlp.0.weight", 1536),
    "swin_s": ("features.5.17.mlp.0.weight", 1536),
    "swin_b": ("features.5.17.mlp.0.weight", 2048),
    "swin_v2_t": ("features.5.5.mlp.0.weight", 1536),
    "swin_v2_s": ("features.5.17.mlp.0.weight", 1536),
    "swin_v2_b": ("features.5.17.mlp.0.weight", 2048),
    "vgg11": ("features.18.weight", 512),
    "vgg13": ("features.22.weight", 512),
    "vgg16": ("features.28.weight", 512),
    "vgg19": ("features.34.weight", 512),
    "vit_b_16": ("encoder.layers.encoder_layer_11.mlp.0.weight", 3072),
    "vit_b_32": ("encoder.layers.encoder_layer_11.mlp.0.weight", 3072),
    "vit_l_16": ("encoder.layers.encoder_layer_23.mlp.0.weight", 4096),
    "vit_l_32": ("encoder.layers.encoder_layer_23.mlp.0.weight", 4096),
}
CANDIDATES = tuple(torchvision_candidate(*each) for each in _MARKERS.items())
