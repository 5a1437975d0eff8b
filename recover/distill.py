"""Teaching the student: the teacher's softened answers to dreams (Hinton et al. 2015).

Every step is a function of (seed, step) and of the state before it: no random stream goes on from
one step to the next, so a run that was interrupted ends with the bits of one that was not.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recover.allocation import choose_masks
from recover.averaging import RunningAverage
from recover.channels import slimming_of
from recover.config import RecoverConfig
from recover.curvature import SquaredGradients
from recover.lesson import Lesson, set_modes
from recover.masks import Masks, dense_masks
from recover.optimizer import (
    clip_gradients,
    give_momentum,
    gradients,
    make_optimizer,
    momentum_of,
)
from recover.schedule import (
    channels_at,
    is_pruning_step,
    last_pruning_step,
    learning_rate,
    sparsity_at,
    starts_pruned,
)
from recover.slim import Slimming
from recover.unlabeled import MixedFeed
from shared.architectures import resize
from shared.augment import cutmix, cutmix_or_mixup, mixup, random_flip, random_shift
from shared.depthwise import unstride
from shared.distributed import ALONE, Group
from shared.errors import DreamforgeError
from shared.feed import Feed, TensorFeed
from shared.layout import layout_of
from shared.seeding import generator
from shared.teacher import Teacher

MIXES: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda images, draws: images,
    "cutmix": cutmix,
    "mixup": mixup,
    "both": cutmix_or_mixup,
}


class DivergedError(DreamforgeError):
    """The loss stopped being finite: nothing that comes after it means anything."""


def augment(images: Tensor, config: RecoverConfig, step: int) -> Tensor:
    """Return the uint8 ``images`` of a step flipped, shifted and mixed as the config says."""
    draws = generator(config.seed, "augment", step)
    if config.flip:
        images = random_flip(images, draws)
    if config.shift:
        images = random_shift(images, config.shift, draws)
    return MIXES[config.mix](images, draws)


class Distillation:
    """A student that is being taught: its weights, momentum and masks, and the step it is at.

    Attributes:
        student: The network that learns, pruned where ``masks`` say.
        masks: In force now; in gradual mode they grow with the steps.
        step: How many steps are done.
        config: Of the run, but for the rate where a state of a lowered one was restored.
        group: The processes that teach it together.

    Args:
        student: On ``device``; it is trained in place.
        teacher: On ``device``; unchanged.
        feed: Batches of images by step.
        config: Resolved for the images.
        device: To compute on.
        masks: What is pruned before the first step.
        group: Processes that teach the same student together; each sees its part of every batch.
        channels_left: A :meth:`recover.slim.Slimming.state` of those of the teacher's that the
            student still has, where it lacks some.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: Teacher,
        feed: Feed | TensorFeed | MixedFeed,
        config: RecoverConfig,
        device: torch.device,
        masks: Masks,
        group: Group = ALONE,
        channels_left: Mapping[str, Any] | None = None,
    ) -> None:
        self.student = student.to(memory_format=layout_of(student)).requires_grad_(True)
        unstride(self.student, device)
        self.masks = masks
        self.step = 0
        self.config = config
        self._feed = feed
        self.group = group
        self._average = RunningAverage(student, config.ema) if config.ema else None
        self._squares = SquaredGradients(student) if config.importance == "fisher" else None
        self._optimizer = make_optimizer(student, config)
        self._slimming = slimming_of(teacher, config, channels_left)
        self._loss_sum = torch.zeros((), device=device)  # since the last row
        self._loss_count = 0
        set_modes(student, config.bn_mode)
        self._lesson = Lesson(teacher, config, device, lambda: feed.batch(0)[0])
        if self._slimming is not None and starts_pruned(config):
            self._slimming.cut_as_chosen(teacher.network, config)  # the student has been cut
        if self._slimming is not None:
            self._lesson.follow(self._slimming.inputs_left())

    def advance(self) -> None:
        """Do one step: prune when it is due, then teach one batch."""
        config = self.config
        if is_pruning_step(config, self.step):
            if self._slimming is not None:
                self._slim(self._slimming, channels_at(config, self.step))
            else:
                self._prune(sparsity_at(config, self.step))
        # Every process draws for the whole batch and keeps its part: that costs far less than the
        # part's forward pass, and the draws are those of a process that is alone.
        images = augment(self._feed.batch(self.step)[0], config, self.step)
        part = self.group.part(images)
        loss = self._lesson.loss(self.student, part, group=self.group) * (len(part) / len(images))
        self._optimizer.zero_grad()
        loss.backward()
        loss = loss.detach()
        self.group.add_up([*gradients(self.student), loss])
        self.masks.apply_to_gradients(self.student)
        if self._squares is not None and self.step < last_pruning_step(config):
            self._squares.update(self.student)
        clip_gradients(self._optimizer)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self.student, self.step)
        self._loss_sum += loss
        self._loss_count += 1
        self.step += 1

    @property
    def taught(self) -> nn.Module:
        """What the steps so far have made: the student, or its average where there is one."""
        return self.student if self._average is None else self._average.network

    def is_finite(self) -> bool:
        """Return whether all losses since the last row are. Waits for the device."""
        return math.isfinite(float(self._loss_sum))

    def require_finite(self) -> None:
        """Wait for the device.

        Raises:
            DivergedError: If a loss since the last row is not finite.
        """
        if not self.is_finite():
            raise DivergedError(
                f"distillation: the loss at step {self.step} is not finite; "
                f"lower --lr (found {self.config.lr:g}) or use --precision float32"
            )

    def row(self) -> dict[str, float]:
        """Return a row of metrics: the mean loss since the last row. Waits for the device.

        Raises:
            DivergedError: If the loss is not finite.
        """
        self.require_finite()
        loss = float(self._loss_sum) / max(self._loss_count, 1)
        self._loss_sum.zero_()
        self._loss_count = 0
        level = {"sparsity": self.masks.sparsity}
        if self._slimming is not None:
            level = {"channels": channels_at(self.config, self.step - 1)}
        rate = learning_rate(self.config, self.step - 1)
        return {"step": self.step, "loss": loss, **level, "lr": rate}

    @property
    def channels_left(self) -> dict[str, list[int]] | None:
        """Which of the teacher's channels the student still has, where some are to go."""
        return None if self._slimming is None else self._slimming.record()

    def check(self) -> None:
        """Assert that what counts as pruned is, and in the end all that was to be."""
        for network in (self.student, self.taught):
            self.masks.check(network)
            if self._slimming is not None:
                self._slimming.check(network)
        if self._slimming is not None and self.step == self.config.steps:
            self._slimming.check_share(self.config)

    def state(self) -> dict[str, Any]:
        """Return everything that the next steps depend on, for :meth:`restore`."""
        self.check()
        return {
            "step": self.step,
            "lr": self.config.lr,
            "student": self.student.state_dict(),
            "momentum": momentum_of(self._optimizer, self.student),
            "masks": dict(self.masks.kept),
            "average": None if self._average is None else self._average.state(),
            "squared_gradients": None if self._squares is None else dict(self._squares.means),
            "channels": None if self._slimming is None else self._slimming.state(),
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`; tensors are copied, into this student's memory format."""
        if self._slimming is not None:
            self._slimming.restore(state["channels"])
            self._lesson.follow(self._slimming.inputs_left())
            resize(self.student, state["student"])
            self._settle()
        self.student.load_state_dict(state["student"])
        give_momentum(self._optimizer, self.student, state["momentum"])
        kept = {
            name: torch.empty_like(mask).copy_(state["masks"][name])
            for name, mask in self.masks.kept.items()
        }
        self.masks = Masks(kept, sum(int(mask.sum()) for mask in kept.values()))
        if self._average is not None:
            self._average.restore(state["average"])
        if self._squares is not None:
            self._squares.restore(state["squared_gradients"])
        self._loss_sum.copy_(state["loss_sum"])
        self._loss_count = state["loss_count"]
        # Checkpoints of before rates were lowered have none.
        self.config = dataclasses.replace(self.config, lr=state.get("lr", self.config.lr))
        self.step = state["step"]

    def begin(self) -> None:
        """Start all processes of the group from the state of the first one."""
        if self.group.count > 1:
            state = self.group.share(self.state() if self.group.leads else None)
            if not self.group.leads:
                self.restore(state)

    def _settle(self) -> None:
        """Make ready for a student whose parameters are others than before."""
        self.student.to(memory_format=layout_of(self.student))
        self.masks = dense_masks(self.student)
        self._optimizer = make_optimizer(self.student, self.config)

    def _slim(self, slimming: Slimming, fraction: float) -> None:
        # What it starts with all stays: before the first step no gradient tells which are to go.
        if fraction >= (self.config.warm_start or 1.0):
            return
        self.require_finite()  # of weights that are no numbers none is the least
        squares = self._squares.means if self._squares is not None and self.step else None
        cut = slimming.cut_as_chosen(self.student, self.config, fraction, squares)
        if not cut.left:
            return
        momentum = momentum_of(self._optimizer, self.student)
        cut.apply(self.student)
        self._settle()
        left = {name: cut.of(name, tensor) for name, tensor in momentum.items()}
        give_momentum(self._optimizer, self.student, left)
        if self._average is not None:
            self._average.cut(cut)
        if self._squares is not None:
            self._squares.cut(cut)
        self._lesson.follow(slimming.inputs_left())
        self._require_agreement(slimming.digest())

    def _prune(self, sparsity: float) -> None:
        squares = self._squares.means if self._squares is not None and self.step else None
        self.masks = choose_masks(self.student, self.config, sparsity, self.masks.kept, squares)
        self.masks.apply(self.student)
        self.masks.apply_to_optimizer(self._optimizer, self.student)
        if self._average is not None:
            self._average.prune(self.masks)
        self._require_agreement(self.masks.digest())

    def _require_agreement(self, digest: int) -> None:
        if self.group.count > 1 and not self.group.agree(digest):
            raise DreamforgeError(
                f"distillation: the processes chose other weights to keep at step {self.step}; "
                "use machines of one kind, or one process"
            )
