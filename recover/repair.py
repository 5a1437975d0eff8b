"""Forward-only repair of a pruned network: BatchNorm statistics estimated again on dreams.

Pruning changes every activation, and the running statistics still describe the dense network's.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.teacher import batch_norms


@torch.no_grad()
def repair_batch_norm(
    network: nn.Module, batches: Iterable[Tensor], normalize: Callable[[Tensor], Tensor]
) -> int:
    """Replace the running statistics of ``network`` by those of ``batches``.

    Each layer's mean is the average of the batches' means; its variance is the average of their
    variances plus the variance of their means (the law of total variance). With a single batch
    these are the batch's own mean and unbiased variance, as in one training step at momentum 1.
    Nothing else changes: modes and momenta are as before, also after an exception.

    Args:
        network: Any network; without BatchNorm nothing happens.
        batches: uint8 images or pixels, as ``normalize`` takes them; of equal size, or the smaller
            ones count for more.
        normalize: Turns a batch into inputs on the network's device.

    Returns:
        How many batches were seen. With none, the statistics are as before.
    """
    norms = _norms(network)
    if not norms:
        return 0
    sums = {name: _Sums(norm) for name, norm in norms.items()}
    num_batches = 0
    with batch_statistics(network):
        for batch in batches:
            network(normalize(batch))
            num_batches += 1
            for name, norm in norms.items():
                sums[name].add(norm)
    if num_batches:
        for name, norm in norms.items():
            sums[name].write(norm, num_batches)
    return num_batches


def _norms(network: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: norm for name, norm in batch_norms(network).items() if isinstance(norm, _BatchNorm)
    }


class _Sums:
    """Sums over batches of one layer's mean, squared mean and variance, in float64."""

    def __init__(self, norm: _BatchNorm) -> None:
        mean, _ = _statistics(norm)
        self.mean = torch.zeros_like(mean, dtype=torch.float64)
        self.squared_mean = torch.zeros_like(self.mean)
        self.var = torch.zeros_like(self.mean)

    def add(self, norm: _BatchNorm) -> None:
        mean, var = (statistic.double() for statistic in _statistics(norm))
        self.mean += mean
        self.squared_mean += mean * mean
        self.var += var

    def write(self, norm: _BatchNorm, num_batches: int) -> None:
        running_mean, running_var = _statistics(norm)
        mean = self.mean / num_batches
        between = (self.squared_mean / num_batches - mean * mean).clamp_(min=0)
        running_mean.copy_(mean)
        running_var.copy_(self.var / num_batches + between)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(num_batches)


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Put the BatchNorm layers, and only them, into training mode with momentum 1.

    After a forward pass their running statistics are then those of that batch alone: they can be
    read with no hook. Modes and momenta are put back, the statistics are not.
    """
    norms = _norms(network).values()
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    try:
        network.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
