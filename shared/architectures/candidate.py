"""What the catalog knows of an architecture before it builds it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an architecture's published weights want their images.

    Attributes:
        size: ``(H, W)`` in pixels.
        mean: Per RGB channel, for pixels in [0, 1].
        std: Per RGB channel.
        doubt: Why mean and std may be others, where they are not those that are usual.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    doubt: str = ""


def cifar_preprocessing() -> Preprocessing:
    """Return what published CIFAR networks mostly use: 32x32 and the ImageNet mean and std."""
    return Preprocessing(size=(32, 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One architecture: how to build it, and how to tell cheaply that a checkpoint is not it.

    Attributes:
        name: The catalog's name.
        build: Takes the number of classes, returns the network for three input channels.
        marker: Name and first dimension of a tensor that every checkpoint of it has; chosen so
            that few other architectures have it too. None where nothing is known.
        usual: Returns the usual preprocessing; a function, because asking may build or import.
        left_out: Prefixes of tensors a checkpoint may have and the network does not need.
        is_rare: It has the tensors of a network that is far more common, and is taken for it only
            by name, or where BatchNorm statistics tell.
    """

    name: str
    build: Callable[[int], nn.Module]
    marker: tuple[str, int] | None = None
    usual: Callable[[], Preprocessing] = cifar_preprocessing
    left_out: tuple[str, ...] = ()
    is_rare: bool = False
