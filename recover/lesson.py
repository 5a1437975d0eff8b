"""What the student is to match on a batch: the teacher's answers, and what its layers take in."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from recover.config import RecoverConfig
from recover.features import Key, feature_distance, feature_scales, features_of
from recover.folding import folded
from recover.loss import distillation_loss
from recover.whole_batch import require_whole_batch, whole_batch_statistics
from shared.device import autocast, compute_dtype
from shared.distributed import ALONE, Group
from shared.images import to_pixels
from shared.layout import layout_of
from shared.seeding import generator
from shared.spec import SIGMOID
from shared.teacher import Teacher, batch_norms

_NUM_COMPARED = 2


class Lesson:
    """The loss of a student on images, beside a teacher that never changes.

    Args:
        teacher: On ``device``; unchanged.
        config: Resolved for the images.
        device: To compute on.
        first_batch: Returns uint8 ``(N, C, H, W)`` on which the layers' features are scaled; asked
            only where they are taught.
    """

    def __init__(
        self,
        teacher: Teacher,
        config: RecoverConfig,
        device: torch.device,
        first_batch: Callable[[], Tensor],
    ) -> None:
        self._teacher = teacher
        self._layout = layout_of(teacher.network)
        self._config = config
        self._device = device
        self._dtype = compute_dtype(device, config.precision)
        noise = _noise(teacher.spec.image_shape).to(device)
        fast = folded(teacher.network, teacher.normalize(noise), self._dtype)
        self._network = fast.to(memory_format=self._layout)
        self._factor = 1.0 if config.scale_loss else config.temperature**-2
        self._feature_weight = config.feature_weight or 0.0
        self._scales = self._measure_scales(first_batch()) if self._feature_weight else {}
        self._inputs_left: Mapping[str, Tensor] = {}
        self._is_checked = False

    def follow(self, inputs_left: Mapping[str, Tensor]) -> None:
        """From now on compare only some of the features: the student has lost the others.

        Args:
            inputs_left: By the name of a layer's weight, which of the channels that the teacher's
                layer takes in the student's takes in, too; all where a layer is not named.
        """
        self._inputs_left = {
            name.removesuffix(".weight"): places.to(self._device)
            for name, places in inputs_left.items()
        }

    def loss(self, student: nn.Module, images: Tensor, group: Group = ALONE) -> Tensor:
        """Return the loss of ``student`` on uint8 ``(N, C, H, W)``, a float32 scalar.

        The mean over the images; gradients flow into the student's parameters.

        Args:
            student: With its modes set (see :func:`set_modes`).
            images: Augmented; a part of the batch where the group has several processes.
            group: The processes that hold the other parts.

        Raises:
            ConfigError: If a BatchNorm of the student sees no more than its process's part.
        """
        inputs = self._inputs(images)
        with autocast(self._device, self._dtype):
            with torch.no_grad(), self._features(self._network) as targets:
                teacher_logits = self._network(inputs)
            with whole_batch_statistics(group), self._features(student) as features:
                logits = student(inputs.contiguous(memory_format=layout_of(student)))
        if not self._is_checked:  # a class does in every step what it does in the first
            require_whole_batch(student, group)
            self._is_checked = True
        loss = self._factor * distillation_loss(
            logits,
            teacher_logits,
            self._config.temperature,
            standardize=self._config.standardize_logits,
            sigmoids=self._teacher.spec.answers == SIGMOID,
        )
        if not self._feature_weight:
            return loss
        shared = self._shared(targets)
        return loss + self._feature_weight * feature_distance(features, shared, self._scales)

    def _shared(self, targets: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        """Return of the teacher's features those that the student has, too."""
        left = self._inputs_left
        return {
            key: target.index_select(1, left[key[0]]) if key[0] in left else target
            for key, target in targets.items()
        }

    def _inputs(self, images: Tensor) -> Tensor:
        inputs = self._teacher.normalize(to_pixels(images))
        return inputs.contiguous(memory_format=self._layout)

    def _features(self, network: nn.Module) -> AbstractContextManager[dict[Key, Tensor]]:
        return features_of(network) if self._feature_weight else nullcontext({})

    def _measure_scales(self, images: Tensor) -> dict[Key, Tensor]:
        # Of one fixed batch: scales of every batch's own would differ between the parts of a batch
        # that processes share, and weigh the images of a quiet batch more than others.
        inputs = self._inputs(images)
        dense = copy.deepcopy(self._teacher.network)
        set_modes(dense, self._config.bn_mode)
        views = []
        for network in (self._network, dense):
            with (
                torch.no_grad(),
                autocast(self._device, self._dtype),
                features_of(network) as features,
            ):
                network(inputs)
            views.append(features)
        return feature_scales(*views)


def _noise(image_shape: Sequence[int]) -> Tensor:
    """Return pixels in [0, 1] to compare a teacher's answers by, of a few images."""
    return torch.rand(_NUM_COMPARED, *image_shape, generator=generator(0, "folding"))


def set_modes(network: nn.Module, bn_mode: str) -> None:
    """Put ``network`` into the modes in which it is taught.

    Only BatchNorm trains as such: dropout and stochastic depth draw from global generators, which
    would end reproducibility, and some networks answer differently in training mode.

    Args:
        network: Changed in place.
        bn_mode: ``train``: statistics of the batch; ``frozen``: the remembered ones.
    """
    network.eval()
    if bn_mode == "train":
        for norm in batch_norms(network).values():
            norm.train()
