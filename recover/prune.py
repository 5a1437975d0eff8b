"""What pruning would do to every layer, and how much the network would mind."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recover.allocation import whole_layers
from recover.config import RecoverConfig
from recover.evaluate import Exam, exam_beside
from recover.holdout import images_of
from recover.importance import importance, prunable_weights
from recover.masks import layerwise_masks, num_weights_kept
from recover.pipeline import empty_layer_warnings, pruned_copy
from recover.preparation import Setup
from shared.metrics import agreement, predict
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.seeding import generator
from shared.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What happens to one prunable weight, and how much the network would mind. Fractions.

    Attributes:
        name: In the state dict.
        shape: Of the tensor.
        num_weights: Its entries.
        num_kept: Those that stay.
        sparsity: Of this layer.
        share: Its part of all weights that stay.
        never_pruned: Whether it is kept whole by request.
        lost_energy: The part of its sum of squares that is pruned: needs no data.
        lone_agreement: Its sensitivity: agreement with the teacher on dreams when it alone is
            pruned to the network's sparsity, with no repair; None without dreams.
    """

    name: str
    shape: tuple[int, ...]
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
        sparsity: As asked for, over all prunable weights.
        num_weights: Prunable weights.
        num_kept: How many of them stay.
        agreement: Of the whole pruned network with the teacher, unrepaired; None without dreams.
        num_images: Dreams behind every agreement.
        layers: In the order of the network.
        config: Every choice.
        warnings: One sentence each.
    """

    architecture: str
    sparsity: float
    num_weights: int
    num_kept: int
    agreement: float | None
    num_images: int
    layers: tuple[LayerPlan, ...]
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
        config: Its pruning options count.
        teacher: Unchanged.
        images: uint8 ``(N, C, H, W)`` to measure agreement on; None or N = 0 measures none.
        progress: Told of the layers.

    Raises:
        IncompatibleError: If the network has nothing to prune.
        ConfigError: If the config's layers to keep are not there, or too large for its sparsity.
    """
    network, masks = pruned_copy(teacher, config)
    exam = None if images is None else exam_beside(teacher, images, None, progress)
    together = None if exam is None else _agreement(network, teacher, exam)
    alone = {} if exam is None else sensitivities(config, teacher, exam, progress)
    weights, whole = prunable_weights(teacher.network), whole_layers(network, config)
    layers = tuple(
        LayerPlan(
            name=layer.name,
            shape=layer.shape,
            num_weights=masks.kept[layer.name].numel(),
            num_kept=layer.kept,
            sparsity=1 - layer.kept / masks.kept[layer.name].numel(),
            share=layer.kept / max(masks.num_kept, 1),
            never_pruned=layer.name in whole,
            lost_energy=_lost_energy(weights[layer.name], masks.kept[layer.name]),
            lone_agreement=alone.get(layer.name),
        )
        for layer in masks.layers()
    )
    return PruningPlan(
        architecture=teacher.spec.architecture,
        sparsity=config.sparsity,
        num_weights=masks.num_weights,
        num_kept=masks.num_kept,
        agreement=together,
        num_images=0 if exam is None else len(exam.images),
        layers=layers,
        config=config.to_json(),
        warnings=tuple(empty_layer_warnings(masks)),
    )


@torch.no_grad()
def sensitivities(
    config: RecoverConfig,
    teacher: Teacher,
    exam: Exam,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Return the agreement with the teacher when one layer alone is pruned, by its weight's name.

    One layer at a time to ``config.sparsity``, with no repair: Li et al. 2017 (arXiv:1608.08710),
    section 3.2, with single weights instead of filters.

    Args:
        config: Its importance and sparsity count.
        teacher: Unchanged.
        exam: Images with the teacher's answers.
        progress: Told of the layers.
    """
    network = copy.deepcopy(teacher.network)
    weights, scores = prunable_weights(network), importance(network, config)
    found: dict[str, float] = {}
    for name, weight in weights.items():
        before = weight.detach().clone()
        count = num_weights_kept(weight.numel(), config.sparsity)
        layerwise_masks({name: scores[name]}, {name: count}).apply(network)
        found[name] = _agreement(network, teacher, exam)
        weight.copy_(before)
        progress(Progress(stage="sensitivity", done=len(found), total=len(weights), unit="layers"))
    return found


def images_to_plan_by(setup: Setup, num_images: int) -> Tensor:
    """Return at most ``num_images`` random dreams, uint8 ``(n, C, H, W)``, none of them held out.

    Layers may be chosen by what they show; held-out dreams are to judge that choice later.
    """
    draws = generator(setup.config.seed, "sensitivity")
    order = torch.randperm(len(setup.split.train), generator=draws)[:num_images]
    return images_of(setup.dreams, setup.split.train[order].sort().values)


def _lost_energy(weight: Tensor, kept: Tensor) -> float:
    squares = weight.detach().double().square()
    energy = float(squares.sum())
    return float(squares.masked_fill(kept, 0).sum()) / energy if energy else 0.0


def _agreement(network: nn.Module, teacher: Teacher, exam: Exam) -> float:
    assert exam.teacher_logits is not None
    logits = predict(network, exam.images, teacher.spec, teacher.device)
    return agreement(logits, exam.teacher_logits)
