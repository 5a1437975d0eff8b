"""Whom dreams are made against: pruned and repaired copies of the teacher.

Adaptive DeepInversion (Yin et al. 2020, arXiv:1912.08795) looks for images that the
teacher and a student answer differently. There the student learns between the batches, which
chains them to each other and the set to one student. Here the opponents are what a student is
before it learns: the teacher pruned at several sparsities. So dreams lie where pruned networks
go astray, batches stay independent, and one set serves every level.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dreamforge.config import SynthesisConfig, parse_sparsities
from dreamforge.engine import Engine
from dreamforge.inversion_loss import inversion_copy
from shared.device import autocast, compute_dtype
from shared.images import to_pixels
from shared.layout import layout_of
from shared.magnitude import prune_globally
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.seeding import derive_seed
from shared.teacher import Teacher, batch_norms


class Opponents:
    """Frozen networks that answer the inputs in the making, as the engine's own network does.

    Args:
        networks: In evaluation mode; they are copied.
        device: Where to compute.
        dtype: Of the convolutions.
    """

    def __init__(
        self, networks: Sequence[nn.Module], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._networks = [inversion_copy(network, device, dtype) for network in networks]
        self._layouts = [layout_of(network) for network in self._networks]
        self._device = device
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self._networks)

    def logits(self, inputs: Tensor) -> list[Tensor]:
        """Return each opponent's answer ``(N, K)`` to normalised inputs ``(N, C, H, W)``.

        Gradients flow into the inputs, and nowhere else.
        """
        with autocast(self._device, self._dtype):
            return [
                network(inputs.contiguous(memory_format=layout))
                for network, layout in zip(self._networks, self._layouts, strict=True)
            ]


def make_opponents(
    teacher: Teacher,
    config: SynthesisConfig,
    device: torch.device,
    progress: ProgressCallback = ignore_progress,
) -> Opponents:
    """Return the teacher pruned at each of ``config.opponent_sparsity``, and repaired.

    Global magnitude pruning, then the BatchNorm statistics of one batch of plain dreams, without
    which the answers would be noise. No data is needed, and every worker makes the same ones: they
    depend on the teacher, the config and the device alone.

    Args:
        teacher: Copied, and itself left alone.
        config: Resolved.
        device: Where to compute.
        progress: Told of the plain batch, which takes as long as any other.
    """
    inputs = _plain_inputs(teacher, config, device, progress)
    networks = []
    for sparsity in parse_sparsities(config.opponent_sparsity):
        network = copy.deepcopy(teacher.network)
        prune_globally(network, sparsity)
        estimate_statistics(network.to(device), inputs)
        networks.append(network)
    return Opponents(networks, device, compute_dtype(device, config.precision))


@torch.no_grad()
def estimate_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Replace what every BatchNorm of ``network`` remembers by what it sees of ``inputs``.

    In one forward pass, in which each layer sees what the repaired ones before it answer.

    Args:
        network: Left in evaluation mode, its BatchNorms with momentum 1.
        inputs: Normalised ``(N, C, H, W)`` on the network's device, N at least 2.
    """
    network.eval()
    for norm in batch_norms(network).values():
        norm.train().momentum = 1.0  # type: ignore[assignment]  # this batch, and nothing before
    network(inputs)
    network.eval()


def _plain_inputs(
    teacher: Teacher, config: SynthesisConfig, device: torch.device, progress: ProgressCallback
) -> Tensor:
    """Return normalised inputs of one batch of dreams that nobody opposes, of a seed of its own.

    Not the first batch of the set: the repair would fit those dreams better than all others.
    """
    num_images, steps = config.batch_size or 2, config.steps or 1

    def report(step: int, terms: Mapping[str, float]) -> None:
        done = round(num_images * step / steps, 1)
        progress(
            Progress(stage="opponents", done=done, total=num_images, unit="images", facts=terms)
        )

    # One batch does not earn compiling, and its engine is not the one that was prepared.
    seed = derive_seed(config.seed, "opponents")
    plain = dataclasses.replace(config, seed=seed, num_images=num_images, compile="off")
    dreams = Engine(teacher, plain, device).synthesize(0, 0, num_images, report).dreams
    report(steps, {})
    return teacher.normalize(to_pixels(dreams.images)).to(device)
