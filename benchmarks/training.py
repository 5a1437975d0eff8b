"""A classifier trained on images that stay on the device; stopped and gone on, the same bits.

SGD with Nesterov momentum, a one-cycle learning rate (Smith and Topin 2019, arXiv:1708.07120),
random flips and shifts. No label smoothing: BatchNorm statistics are to be those of plain training.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.augment import random_flip, random_shift
from shared.depthwise import unstride
from shared.device import autocast
from shared.evaldata import EvalData
from shared.images import to_pixels
from shared.metrics import channel_statistics, share_right
from shared.seeding import derive_seed, generator
from shared.spec import TeacherSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What decides the trained weights, besides the data and the first weights.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per update, at most as many as there are.
        lr: Peak of the cycle.
        weight_decay: Of all parameters.
        shift: Pixels, each way.
        flip: Left to right, half of the images.
        seed: Of every random stream.
        dtype: Of the convolutions.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    shift: int
    flip: bool
    seed: int
    dtype: torch.dtype


class Training:
    """A network on its way; :meth:`state` between any two updates is all it takes to go on.

    On one thread of a CPU the result has the same bits wherever it was stopped. Dropout on CUDA
    draws from the device's own generator, which is neither seeded nor saved.

    Attributes:
        epoch: Of the next update, from 0.

    Args:
        network: On the device; trained in place.
        data: Training images.
        spec: Mean and std of the inputs.
        device: Gets the images.
        recipe: How it is trained.
    """

    def __init__(
        self,
        network: nn.Module,
        data: EvalData,
        spec: TeacherSpec,
        device: torch.device,
        recipe: Recipe,
    ) -> None:
        self._network, self._device, self._recipe = network, device, recipe
        unstride(network, device)
        self._images, self._labels = data.images.to(device), data.labels.to(device)
        self._mean, self._std = channel_statistics(spec, device)
        self._batch_size = min(recipe.batch_size, len(self._labels))
        self._num_batches = len(self._labels) // self._batch_size
        self._optimizer = torch.optim.SGD(
            network.parameters(),
            lr=recipe.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            recipe.lr,
            total_steps=recipe.epochs * self._num_batches,
            cycle_momentum=False,
        )
        torch.default_generator.manual_seed(derive_seed(recipe.seed, "dropout"))
        self.epoch = 0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._step = 0
        self._hits = torch.zeros((), device=self._device)
        self._draws = generator(self._recipe.seed, "epoch", self.epoch)
        order = torch.randperm(len(self._labels), generator=self._draws)
        used = order[: self._num_batches * self._batch_size]
        self._batches = used.to(self._device).split(self._batch_size)

    @property
    def num_left(self) -> int:
        """Updates that are left of this epoch."""
        return self._num_batches - self._step

    def update(self) -> None:
        """Take the next step of this epoch."""
        self._network.train()
        rows = self._batches[self._step]
        inputs = (to_pixels(self._augmented(self._images[rows])) - self._mean) / self._std
        with autocast(self._device, self._recipe.dtype):
            logits = self._network(inputs.contiguous(memory_format=torch.channels_last))
        loss = training_loss(logits.float(), self._labels[rows])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        self._hits += share_right(logits.detach(), self._labels[rows]).nan_to_num() * len(rows)
        self._step += 1

    def _augmented(self, images: Tensor) -> Tensor:
        if self._recipe.flip:
            images = random_flip(images, self._draws)
        shift = self._recipe.shift
        return random_shift(images, shift, self._draws) if shift else images

    def end_epoch(self) -> float:
        """Begin the next epoch; return the accuracy on this one's augmented images, a fraction."""
        accuracy = float(self._hits) / (self._num_batches * self._batch_size)
        self.epoch += 1
        self._begin_epoch()
        return accuracy

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values that :meth:`load_state` goes on from."""
        return {
            "epoch": self.epoch,
            "step": self._step,
            "hits": self._hits,
            "draws": self._draws.get_state(),
            "dropout": torch.default_generator.get_state(),
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state` of a training of the same network, data and recipe."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]
        self._begin_epoch()
        self._step = state["step"]
        self._hits = state["hits"].to(self._device)
        self._draws.set_state(state["draws"])
        torch.default_generator.set_state(state["dropout"])


def training_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy; of findings that of each, the mean over those that are known.

    Args:
        logits: float32 ``(N, K)``; of findings the first is the 0 of none.
        labels: int64 ``(N,)``; of findings int8 ``(N, K - 1)``: 1 present, 0 absent, -1 not known.
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    known = (labels >= 0).float()
    wanted = (labels == 1).float()
    loss = F.binary_cross_entropy_with_logits(logits[:, 1:], wanted, reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)
