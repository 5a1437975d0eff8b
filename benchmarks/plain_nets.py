"""Networks without BatchNorm, for ``--arch plain_nets:vit``: there is nothing to invert in them.

Run from this folder, or with it on PYTHONPATH.
"""

import torch
from torch import Tensor, nn


class VisionTransformer(nn.Module):
    """A transformer over patches (Dosovitskiy et al. 2021, arXiv:2010.11929), of PyTorch's layers.

    Args:
        num_classes: Of the head.
        size: Of the square images, in pixels.
        patch: Of a patch's sides, in pixels.
        width: Of a token.
        depth: Layers.
    """

    def __init__(self, num_classes: int, size: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of normalised images ``(N, C, H, W)``."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        token = self.token.expand(tokens.shape[0], -1, -1)
        encoded = self.encoder(torch.cat([token, tokens], 1) + self.position)
        logits: Tensor = self.head(self.norm(encoded)[:, 0])
        return logits


def vit(num_classes: int = 10) -> VisionTransformer:
    """Return one of 136,138 parameters (in gray) for digits of 8x8 pixels."""
    return VisionTransformer(num_classes, size=8, patch=2, width=64, depth=4)


def group_norm(num_classes: int = 10) -> nn.Sequential:
    """Return four convolutions with GroupNorm: 65,834 parameters in gray."""
    layers: list[nn.Module] = []
    for taken, made, stride in ((3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(taken, made, 3, stride, 1, bias=False), nn.GroupNorm(8, made)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
