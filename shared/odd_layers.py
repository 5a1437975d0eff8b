"""Layers that the rest does not count on: replaced where that changes no answer, or refused.

Inversion, repair and distillation all work on PyTorch's own BatchNorm. Detection code freezes it
in a class of its own, and distributed training replaces it by one that talks to other processes.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.errors import CheckpointError

# What torchvision.ops, detectron2 and DETR all register, as buffers.
_FROZEN = frozenset({"weight", "bias", "running_mean", "running_var"})


class PlainBatchNorm(_BatchNorm):
    """A BatchNorm for inputs of any number of dimensions, channels in dimension 1."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept them all."""


def replace_odd_norms(network: nn.Module) -> list[str]:
    """Replace frozen and synchronized BatchNorms, in place, by plain ones that answer the same.

    The plain ones have the same names in the state dict, and a counter that frozen ones lack, but
    no values yet: replace before loading.

    Returns:
        One sentence per kind that was found.
    """
    found: dict[str, int] = {}
    for name, module in list(network.named_modules()):
        if name and (_is_frozen(module) or isinstance(module, nn.SyncBatchNorm)):
            network.set_submodule(name, _plain(module))
            kind = type(module).__name__
            found[kind] = found.get(kind, 0) + 1
    return [
        f"{count} {kind} replaced by plain BatchNorms, which answer the same"
        for kind, count in found.items()
    ]


def refuse_odd_layers(network: nn.Module) -> None:
    """Check that every BatchNorm remembers what a batch of images can have shown it.

    Raises:
        CheckpointError: Naming the first that does not, or a convolution over three dimensions, or
            a part in TorchScript.
    """
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CheckpointError(
                f"{name or 'the network'!r} is TorchScript, which takes no hooks: expected modules "
                "of Python; build it of what was scripted"
            )
        if isinstance(module, nn.Conv3d):
            raise CheckpointError(
                f"convolution {name!r} is over three dimensions: a network for films or volumes, "
                "expected one for images"
            )
        if not isinstance(module, _BatchNorm):
            continue
        if module.running_var is None:
            raise CheckpointError(
                f"BatchNorm {name!r} tracks no running statistics (track_running_stats=False), so "
                "answers depend on the rest of a batch, and there is nothing to invert"
            )
        least = module.running_var.min().item()
        if least < 0:
            raise CheckpointError(
                f"BatchNorm {name!r} remembers a variance of {least:g}, expected at least 0: the "
                "file is damaged or its tensors were mixed up"
            )


def require_norm_layers(network: nn.Module) -> None:
    """Check that statistics that were found among the tensors are those of BatchNorm layers.

    Raises:
        CheckpointError: If there is no such layer: a forward calls ``F.batch_norm`` itself.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise CheckpointError(
            "found BatchNorm statistics (running_mean), but no BatchNorm layer, expected some: "
            "what batches are like is seen in layers alone; in place of F.batch_norm use "
            "nn.BatchNorm2d, which has the same tensors; for other norms, which nobody can invert, "
            "`dreamforge import` and `dreamforge draw` make sets"
        )


def _is_frozen(module: nn.Module) -> bool:
    return "FrozenBatchNorm" in type(module).__name__ and set(module.state_dict()) == _FROZEN


def _plain(module: nn.Module) -> PlainBatchNorm:
    """Return a plain BatchNorm of the same shape; its values are still to be loaded."""
    if isinstance(module, nn.SyncBatchNorm):
        return PlainBatchNorm(
            module.num_features,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
        )
    num_features = module.state_dict()["running_var"].numel()
    return PlainBatchNorm(num_features, eps=getattr(module, "eps", 1e-5))
