"""How a network wants its images: laid out in memory, and as a copy where it writes into them.

Convolutions are fastest with channels last. But a forward that flattens feature maps with ``view``,
as tutorials do, fails on them, since ``view`` needs neighbours in memory. And a forward that
normalises in place (``x.sub_(mean)``) leaves other images to whoever looks at them next.
"""

import copy

import torch
from torch import nn


def settle_layout(network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Find out whether ``network`` does with channels last, for :func:`layout_of`.

    Args:
        network: In evaluation mode, on the CPU.
        image_shape: ``(C, H, W)``, which it takes in the usual layout, as has been tried.
    """
    layout = torch.channels_last
    # Weights, too: images of one channel have both layouts, and feature maps that of the weights.
    turned = copy.deepcopy(network).to(memory_format=layout)
    images = torch.zeros(2, *image_shape).to(memory_format=layout)
    try:
        with torch.no_grad():
            turned(images)
    except RuntimeError:
        network.wants_contiguous = True  # type: ignore[assignment]  # a plain attribute: copied along


def layout_of(network: nn.Module) -> torch.memory_format:
    """Return channels last, unless ``network``, its copy, or one inside cannot do with it."""
    wants = any(getattr(module, "wants_contiguous", False) for module in network.modules())
    return torch.contiguous_format if wants else torch.channels_last


def spare_images(network: nn.Module) -> None:
    """Let ``network`` and its copies, whose forward changes its images, change copies of them."""
    if _copy_images not in network._forward_pre_hooks.values():
        network.register_forward_pre_hook(_copy_images)


def spares_images(network: nn.Module) -> bool:
    """Tell whether that was said of ``network``."""
    return _copy_images in network._forward_pre_hooks.values()


def _copy_images(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].clone(), *inputs[1:])
