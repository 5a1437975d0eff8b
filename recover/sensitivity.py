"""How much a network minds when one of its layers alone is pruned: measured, before a run."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from recover.channels import slimming_of
from recover.config import RecoverConfig
from recover.evaluate import Exam
from recover.importance import importance, prunable_weights
from recover.masks import Masks, layerwise_masks, num_weights_kept
from shared.metrics import agreement, predict
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.teacher import Teacher


def agreement_with(network: nn.Module, teacher: Teacher, exam: Exam) -> float:
    """Return the fraction of the exam's images that both put into the same class."""
    assert exam.teacher_logits is not None
    logits = predict(network, exam.images, teacher.spec, teacher.device)
    return agreement(logits, exam.teacher_logits)


@torch.no_grad()
def sensitivities(
    config: RecoverConfig,
    teacher: Teacher,
    masks: Masks,
    exam: Exam,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Return the agreement with the teacher when one layer alone is pruned, by its weight's name.

    One layer at a time, with no repair: Li et al. 2017 (arXiv:1608.08710), section 3.2. Single
    weights are pruned to ``config.sparsity``, whatever the layer loses beside the others; those of
    a pattern by it; of channels, those that the layer makes are cut, and so are those of the layers
    that make the same ones (a stage of residual blocks). A layer whose channels all stay has none.

    Args:
        config: Resolved; its importance and how much it prunes count.
        teacher: Unchanged.
        masks: What stays of single weights when all layers are pruned.
        exam: Images with the teacher's answers.
        progress: Told of the layers.
    """
    found: dict[str, float] = {}
    every = _without_channels if config.channels is not None else _without_weights
    for names, network, total in every(config, teacher, masks.kept):
        found |= dict.fromkeys(names, agreement_with(network, teacher, exam))
        progress(Progress(stage="sensitivity", done=len(found), total=total, unit="layers"))
    return found


Pruned = Iterator[tuple[tuple[str, ...], nn.Module, int]]


def _without_weights(config: RecoverConfig, teacher: Teacher, kept: Mapping[str, Tensor]) -> Pruned:
    """Yield a layer's name, the network without its weights, and how many layers there are."""
    network = copy.deepcopy(teacher.network)
    weights, scores = prunable_weights(network), importance(network, config)
    for name, weight in weights.items():
        before = weight.detach().clone()
        if config.pattern is None:
            count = num_weights_kept(weight.numel(), config.sparsity)
            layerwise_masks({name: scores[name]}, {name: count}).apply(network)
        else:
            weight.mul_(kept[name])
        yield (name,), network, len(weights)
        weight.copy_(before)


def _without_channels(config: RecoverConfig, teacher: Teacher, _: Mapping[str, Tensor]) -> Pruned:
    """Yield the layers that make the same channels, likewise."""
    slimming = slimming_of(teacher, config)
    assert slimming is not None
    makers = slimming.makers()
    total = sum(len(names) for names in makers.values())
    for group, names in makers.items():
        network, before = copy.deepcopy(teacher.network), slimming.state()
        slimming.cut_as_chosen(network, config, only=group).apply(network)
        slimming.restore(before)
        yield names, network, total
