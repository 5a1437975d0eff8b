"""A network of other widths: the same layers, with more or fewer channels than it was built with.

Students of which channels were removed are such networks, and so are strangers' slimmed ones: the
tensors say how wide every layer is, and nothing else of the architecture changes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_RESIZABLE = (_ConvNd, nn.Linear, _NormBase)


def resize(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give every layer of ``network`` the tensors that are there for it, whatever their size.

    Args:
        network: Changed in place: parameters and buffers of another shape are replaced by copies of
            the tensors, those of the same shape stay as they are. A tensor that several layers
            share stays shared.
        tensors: By the names of the network's state dict; others are passed over.

    Raises:
        ValueError: If a tensor has another number of dimensions or another kernel, or is of a
            layer that has no width.
    """
    replaced: dict[int, Tensor] = {}
    for path, module in network.named_modules():
        changed = False
        for own in (module._parameters, module._buffers):
            for name, old in own.items():
                new = tensors.get(f"{path}.{name}".lstrip("."))
                if old is None or (new is None and id(old) not in replaced):
                    continue
                if id(old) not in replaced:
                    assert new is not None
                    if old.shape == new.shape:
                        continue
                    _require_width(module, f"{path}.{name}", old, new)
                    replaced[id(old)] = _like(old, new)
                own[name] = replaced[id(old)]
                changed = True
        if changed:
            _tell(module)


def rigid_tensors(network: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers of modules that have no width: :func:`resize` refuses others."""
    for module in network.modules():
        if not _has_width(module):
            yield from module.parameters(recurse=False)
            yield from module.buffers(recurse=False)


def _has_width(module: nn.Module) -> bool:
    return isinstance(module, _RESIZABLE) and not isinstance(module, _ConvTransposeNd)


def _require_width(module: nn.Module, name: str, old: Tensor, new: Tensor) -> None:
    if (
        not _has_width(module)
        or old.dim() != new.dim()
        or old.shape[2:] != new.shape[2:]
        or 0 in new.shape
    ):
        raise ValueError(f"{name} is {tuple(new.shape)}, expected {tuple(old.shape)} or narrower")


def _like(old: Tensor, new: Tensor) -> Tensor:
    tensor = torch.empty(new.shape, dtype=old.dtype, device=old.device)
    tensor.copy_(new)
    if isinstance(old, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=old.requires_grad)
    return tensor


def _tell(module: nn.Module) -> None:
    """Let the module's own numbers say what its tensors are."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        tensors = (module.weight, module.running_mean)
        module.num_features = next(len(tensor) for tensor in tensors if tensor is not None)
    elif isinstance(module, _ConvNd):
        rows, columns = module.weight.shape[:2]
        rows_per_group = module.out_channels // module.groups
        if module.groups > 1:
            if rows % rows_per_group:
                raise ValueError(f"{rows} channels in groups of {rows_per_group}")
            module.groups = rows // rows_per_group
        module.out_channels, module.in_channels = rows, columns * module.groups
