"""Repair towards the dense network: every BatchNorm's output gets the moments that it had there.

Re-estimated BatchNorm statistics give every channel mean 0 and variance 1 on dreams. In the dense
network no channel has exactly these on dreams, which are not quite real images. By how much they
differ is known, layer by layer, and the pruned network is given the same difference: its
statistics then stand for real images, as the dense network's do. After REPAIR (Jordan et al. 2023,
arXiv:2211.08403), which restores moments between networks to be averaged; here the target is one
dense network, and BatchNorm's running statistics take the correction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recover.layers import Layer, pass_through
from recover.repair import repair_batch_norm
from shared.hooks import on_input
from shared.teacher import batch_norms

Affine = tuple[Tensor, Tensor]  # of a standardized channel: its deviation and its mean, (C,) each


@torch.no_grad()
def moments_on(
    dense: nn.Module, batches: Iterable[Tensor], normalize: Callable[[Tensor], Tensor]
) -> dict[str, Affine]:
    """Return deviation and mean of what each BatchNorm of ``dense`` makes of the images.

    They are those between its normalisation and its scale and shift: 1 and 0 where the images have
    the statistics that the layer remembers.

    Args:
        dense: In evaluation mode; unchanged.
        batches: uint8 images or pixels, as ``normalize`` takes them; possibly none.
        normalize: Turns a batch into inputs on the network's device.

    Returns:
        Float32, by the layer's name, for the BatchNorms that were reached.
    """
    norms = batch_norms(dense)
    moments = {name: _Moments() for name in norms}
    handles = [on_input(norm, moments[name].add) for name, norm in norms.items()]
    try:
        for batch in batches:
            dense(normalize(batch))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: _standardized(norms[name], moments[name])
        for name in norms
        if moments[name].num_values
    }


@contextmanager
def standardized_as(network: nn.Module, moments: Mapping[str, Affine]) -> Iterator[None]:
    """Within the block BatchNorms that use the batch's statistics give their channels ``moments``.

    Their scales and shifts are exchanged for some that do so, and put back.
    """
    norms: dict[str, Any] = {name: batch_norms(network)[name] for name in moments}
    before = {name: (norm.weight, norm.bias) for name, norm in norms.items()}
    try:
        for name, (deviation, mean) in moments.items():
            weight, bias = before[name]
            scale = torch.ones_like(deviation) if weight is None else weight
            shift = torch.zeros_like(mean) if bias is None else bias
            norms[name].weight = nn.Parameter(scale * deviation, requires_grad=False)
            norms[name].bias = nn.Parameter(shift + scale * mean, requires_grad=False)
        yield
    finally:
        for name, (weight, bias) in before.items():
            norms[name].weight, norms[name].bias = weight, bias


@torch.no_grad()
def match_batch_norm(
    network: nn.Module,
    moments: Mapping[str, Affine],
    batches: Iterable[Tensor],
    normalize: Callable[[Tensor], Tensor],
) -> int:
    """Set the running statistics such that every BatchNorm's channels have the given moments.

    Weights, scales and shifts stay as they are: a distillation that normalises by its batches
    starts as it would have started without.

    Args:
        network: Pruned, with the BatchNorms of the dense network.
        moments: The dense network's, from :func:`moments_on` for the same images.
        batches: As for :func:`recover.repair.repair_batch_norm`.
        normalize: Turns a batch into inputs on the network's device.

    Returns:
        How many batches were seen. With none, the statistics are as before.
    """
    with standardized_as(network, moments):
        num_batches = repair_batch_norm(network, batches, normalize)
    if num_batches:
        norms: dict[str, Any] = dict(batch_norms(network))
        for name, (deviation, mean) in moments.items():
            norm = norms[name]
            spread = (norm.running_var + norm.eps).sqrt() / deviation
            norm.running_mean -= spread * mean
            norm.running_var.copy_(spread.square() - norm.eps).clamp_(min=0)
    return num_batches


@torch.no_grad()
def correct_bias(
    network: nn.Module,
    dense: nn.Module,
    layer: Layer,
    batches: Iterable[Tensor],
    normalize: Callable[[Tensor], Tensor],
) -> None:
    """Shift the bias of a layer of ``network`` such that its mean output is the dense one's.

    Bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2), for layers with no
    BatchNorm after them.

    Args:
        network: Pruned, in evaluation mode.
        dense: What it was, in evaluation mode.
        layer: Of ``network``, with a bias.
        batches: Images as ``normalize`` takes them.
        normalize: Turns a batch into inputs on the network's device.
    """
    assert layer.module.bias is not None
    channels = 1 if isinstance(layer.module, nn.Conv2d) else -1
    ours, theirs = _Moments(), _Moments()
    for batch in batches:
        inputs = normalize(batch)
        for of, moments in ((network, ours), (dense, theirs)):
            output = pass_through(of, of.get_submodule(layer.name), inputs)[1]
            moments.add(output.movedim(channels, 1))
    if ours.num_values:
        layer.module.bias.add_((theirs.mean - ours.mean).float())


class _Moments:
    """Mean and biased variance per channel over batches of any size, in float64."""

    def __init__(self) -> None:
        self.num_values = 0
        self._sum = self._sum_of_squares = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Count in ``(N, C, ...)``; values in half precision are added up in float32."""
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        others = [dim for dim in range(values.ndim) if dim != 1]
        var, mean = torch.var_mean(values, others, correction=0)
        num_values = values.numel() // values.shape[1]
        mean = mean.double()
        self._sum = self._sum.to(mean) + num_values * mean
        self._sum_of_squares = self._sum_of_squares.to(mean) + num_values * (var + mean.square())
        self.num_values += num_values

    @property
    def mean(self) -> Tensor:
        return self._sum / self.num_values

    @property
    def var(self) -> Tensor:
        return (self._sum_of_squares / self.num_values - self.mean.square()).clamp(min=0)


def _standardized(norm: Any, moments: _Moments) -> Affine:
    spread = (norm.running_var.double() + norm.eps).sqrt()
    deviation = (moments.var + norm.eps).sqrt() / spread
    mean = (moments.mean - norm.running_mean) / spread
    return deviation.float(), mean.float()
