"""VGG with BatchNorm for 32x32 images: torchvision's ``features``, then a single linear layer.

Simonyan and Zisserman 2015 (arXiv:1409.1556), table 1, columns A, B, D and E; the CIFAR head is
that of kuangliu/pytorch-cifar, whose checkpoints have these tensor names.
"""

from functools import partial

from torch import Tensor, nn

from shared.architectures.candidate import Candidate

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class SmallVGG(nn.Module):
    """Stages of 3x3 convolutions with BatchNorm, each followed by a 2x2 max pooling."""

    def __init__(self, num_classes: int, *, depth: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            for _ in range(count):
                self.features.append(nn.Conv2d(channels, width, 3, padding=1))
                self.features.append(nn.BatchNorm2d(width))
                self.features.append(nn.ReLU(inplace=True))
                channels = width
            self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of normalised ``(N, C, H, W)``, H and W at least 32."""
        return self.classifier(self.features(inputs).mean((2, 3)))


def _candidate(depth: int) -> Candidate:
    last = 3 * sum(CONVOLUTIONS[depth]) + len(WIDTHS) - 4  # the last convolution's index
    return Candidate(
        name=f"cifar_vgg{depth}_bn",
        build=partial(SmallVGG, depth=depth),
        marker=(f"features.{last}.weight", 512),
    )


CANDIDATES = tuple(_candidate(depth) for depth in CONVOLUTIONS)
