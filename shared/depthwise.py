"""Depthwise convolutions that skip pixels, computed without skipping where that is faster.

oneDNN, which computes convolutions on the CPU, has no fast gradient for the inputs of a depthwise
convolution with a stride; those of MobileNets, ShuffleNets and EfficientNets then take half of a
step. The same numbers come from the convolution without a stride, of whose result every second
pixel is kept: more arithmetic, in less time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.device import is_slow_in_strides


def unstride(network: nn.Module, device: torch.device) -> None:
    """Let the strided depthwise convolutions of ``network`` compute densely, if that is faster.

    Names, parameters and, up to rounding, outputs and gradients stay what they are.

    Args:
        network: Changed in place: modules of exactly ``nn.Conv2d`` change their class.
        device: To compute on.
    """
    if is_slow_in_strides(device):
        for module in network.modules():
            if _is_strided_depthwise(module):
                module.__class__ = DenselyComputedConv2d


class DenselyComputedConv2d(nn.Conv2d):
    """A convolution that skips pixels of its result, where a gradient will be asked of its input.

    Otherwise it is a plain one. Zero padding, in numbers.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super()._conv_forward(input, weight, bias)
        padding: Any = self.padding
        dense = F.conv2d(input, weight, bias, 1, padding, self.dilation, self.groups)
        kept = dense[..., :: self.stride[0], :: self.stride[1]]
        is_last = input.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        return kept.contiguous(memory_format=layout)


def _is_strided_depthwise(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d  # a subclass may do more with its weights
        and module.groups == module.in_channels > 1
        and max(module.stride) > 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )
