"""What pruning would do to every layer, and how much the network would mind."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recover.allocation import whole_layers
from recover.beginning import pruned_copy
from recover.config import RecoverConfig
from recover.costs import Costs, measure_costs
from recover.evaluate import exam_beside
from recover.holdout import images_of
from recover.importance import prunable_weights
from recover.oneshot import in_one_shot
from recover.pipeline import empty_layer_warnings
from recover.preparation import Setup, resolved
from recover.sensitivity import agreement_with, sensitivities
from shared.progress import ProgressCallback, ignore_progress
from shared.seeding import generator
from shared.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What happens to one prunable weight, and how much the network would mind. Fractions.

    Attributes:
        name: In the state dict.
        shape: Of the tensor.
        num_weights: Its entries.
        shape_left: Of what stays: another one where channels are removed.
        num_kept: Those that stay.
        sparsity: Of this layer: the fraction of its entries that are zero, or gone.
        share: Its part of all weights that stay.
        never_pruned: Whether it is kept whole by request.
        lost_energy: The part of its sum of squares that is pruned: needs no data.
        lone_agreement: Its sensitivity: agreement with the teacher on dreams when it alone is
            pruned (:func:`recover.sensitivity.sensitivities`), with no repair; None without dreams,
            and of a layer whose channels all stay.
    """

    name: str
    shape: tuple[int, ...]
    shape_left: tuple[int, ...]
    num_weights: int
    num_kept: int
    sparsity: float
    share: float
    never_pruned: bool
    lost_energy: float
    lone_agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPlan:
    """What pruning in one shot would do.

    Attributes:
        architecture: Of the teacher.
        sparsity: As asked for, over all prunable weights; 0 where channels are removed.
        channels: The fraction of them that stays, where channels are removed.
        num_weights: Prunable weights.
        num_kept: How many of them stay.
        agreement: Of the whole pruned network with the teacher, unrepaired; None without dreams.
        num_images: Dreams behind every agreement.
        layers: In the order of the network.
        costs: What is left costs, where channels are removed: zeros make nothing faster.
        config: Every choice.
        warnings: One sentence each.
    """

    architecture: str
    sparsity: float
    channels: float | None
    num_weights: int
    num_kept: int
    agreement: float | None
    num_images: int
    layers: tuple[LayerPlan, ...]
    costs: Costs | None
    config: dict[str, Any]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return dataclasses.asdict(self)


def plan_pruning(
    config: RecoverConfig,
    teacher: Teacher,
    images: Tensor | None = None,
    progress: ProgressCallback = ignore_progress,
) -> PruningPlan:
    """Return what pruning a copy of ``teacher`` would do; nothing is written.

    With images the cost is one forward pass of them per layer, and two more.

    Args:
        config: Its pruning options count, of a run without steps.
        teacher: Unchanged.
        images: uint8 ``(N, C, H, W)`` to measure agreement on; None or N = 0 measures none.
        progress: Told of the layers.

    Raises:
        IncompatibleError: If the network has nothing to prune, or not in the way that is asked for.
        ConfigError: If the config's layers to keep are not there, or too large for its sparsity.
    """
    config = resolved(in_one_shot(config), teacher)
    network, masks = pruned_copy(teacher, config)
    exam = None if images is None else exam_beside(teacher, images, None, progress)
    together = None if exam is None else agreement_with(network, teacher, exam)
    alone = {} if exam is None else sensitivities(config, teacher, masks, exam, progress)
    before, after = prunable_weights(teacher.network), prunable_weights(network)
    whole = whole_layers(teacher.network, config)
    layers = tuple(
        LayerPlan(
            name=layer.name,
            shape=tuple(before[layer.name].shape),
            shape_left=layer.shape,
            num_weights=before[layer.name].numel(),
            num_kept=layer.kept,
            sparsity=1 - layer.kept / before[layer.name].numel(),
            share=layer.kept / max(masks.num_kept, 1),
            never_pruned=layer.name in whole,
            lost_energy=_lost_energy(before[layer.name], after[layer.name]),
            lone_agreement=alone.get(layer.name),
        )
        for layer in masks.layers()
    )
    shape = teacher.spec.image_shape
    is_smaller = config.channels is not None
    return PruningPlan(
        architecture=teacher.spec.architecture,
        sparsity=config.sparsity,
        channels=config.channels,
        num_weights=sum(layer.num_weights for layer in layers),
        num_kept=masks.num_kept,
        agreement=together,
        num_images=0 if exam is None else len(exam.images),
        layers=layers,
        costs=measure_costs(network, teacher.network, shape) if is_smaller else None,
        config=config.to_json(),
        warnings=tuple(empty_layer_warnings(masks)),
    )


def images_to_plan_by(setup: Setup, num_images: int) -> Tensor:
    """Return at most ``num_images`` random dreams, uint8 ``(n, C, H, W)``, none of them held out.

    Layers may be chosen by what they show; held-out dreams are to judge that choice later.
    """
    draws = generator(setup.config.seed, "sensitivity")
    order = torch.randperm(len(setup.split.train), generator=draws)[:num_images]
    return images_of(setup.dreams, setup.split.train[order].sort().values)


def _lost_energy(before: Tensor, after: Tensor) -> float:
    energy = _energy(before)
    return 1 - _energy(after) / energy if energy else 0.0


def _energy(weight: Tensor) -> float:
    return float(weight.detach().double().square().sum())
