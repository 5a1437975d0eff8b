"""The inversion engine: noise in, dreams out, one batch at a time.

DeepInversion (Yin et al. 2020, arXiv:1912.08795): inputs are optimised until the teacher answers
the targets and its BatchNorm layers see the statistics they remember. The loop is loss, gradient,
step; nothing in it waits for the device, and no weight gradients are computed. Where the
run is long enough to earn it back, the loss and its gradient are compiled.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamforge.canvas import make_canvas
from dreamforge.config import SynthesisConfig
from dreamforge.inversion_loss import Answers, InversionLoss, inversion_copy
from dreamforge.moves import Moves
from dreamforge.noise import balanced_targets, initial_inputs, soften
from dreamforge.plan import batch_sizes
from shared.compiling import compiler_errors
from shared.device import compute_dtype, to_device
from shared.dreams import DreamBatch
from shared.errors import DreamforgeError
from shared.images import to_images
from shared.optimizers import Adam
from shared.seeding import generator
from shared.teacher import Teacher
from shared.values import stored_logits

SECONDS_BETWEEN_READS = 1.0  # reading a loss makes the device wait, so it is done rarely
MAX_ATTEMPTS = 4  # each with half the rate of the one before
# Of rates from 1e-4 to 1000: where inputs hardly move, losses end within 1.1 of the first (each
# step sees another crop); where a ResNet-20's scenes are thrown about, at 1.6 times that or more.
MOST_RISE = 1.5

StepCallback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SynthesizedBatch:
    """A batch's dreams and how it went.

    Attributes:
        dreams: What is stored.
        terms: The unweighted loss terms when the images were taken, and their weighted ``total``.
        attempts: 1, or more when a batch diverged and was started again with a lower rate.
    """

    dreams: DreamBatch
    terms: dict[str, float]
    attempts: int


@dataclass(slots=True)
class _Best:
    """The inputs with the lowest loss so far: a copy, never a view of what Adam moves."""

    inputs: Tensor
    loss: Tensor
    first: Tensor  # the losses of the first step and of the latest
    last: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)

    def update(self, inputs: Tensor, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Take over ``inputs`` if ``loss`` is lower; NaN is not. The device decides, unasked."""
        self.last = loss
        better = loss < self.loss
        torch.where(better, inputs, self.inputs, out=self.inputs)
        self.loss = torch.where(better, loss, self.loss)
        self.terms = {
            name: torch.where(better, value, self.terms.get(name, value))
            for name, value in terms.items()
        }

    def diverged(self) -> bool:
        """Return whether the loss is not finite, or ended well above where it began. Waits."""
        first, last, loss = torch.stack([self.first, self.last, self.loss]).tolist()
        return not math.isfinite(last + loss) or last > MOST_RISE * first


class Engine:
    """Inverts one teacher on one device with one config; make one per process.

    Args:
        teacher: On any device; it is copied, and itself left alone.
        config: Resolved (see :meth:`SynthesisConfig.resolve`).
        device: Where to compute.
        opponents: For adaptive inversion (see :mod:`dreamforge.opponents`).
        gray: Keep all channels of the inputs equal.
    """

    def __init__(
        self,
        teacher: Teacher,
        config: SynthesisConfig,
        device: torch.device,
        opponents: Answers | None = None,
        *,
        gray: bool = False,
    ) -> None:
        self._config = config
        self._gray = gray
        self._device = device
        self._dtype = compute_dtype(device, config.precision)
        self._scorer = teacher.to(device)
        self._network = inversion_copy(teacher.network, device, self._dtype)
        self._eager = InversionLoss(self._network, config, device, self._dtype, opponents=opponents)
        self._compiled: InversionLoss | None = None
        if config.compile == "on":
            self._compiled = InversionLoss(
                self._network, config, device, self._dtype, compiled=True, opponents=opponents
            )
        black, white = (
            torch.zeros(1, *teacher.spec.image_shape),
            torch.ones(1, *teacher.spec.image_shape),
        )
        corners = torch.cat([teacher.normalize(black), teacher.normalize(white)])[:, :, :1, :1]
        self._low, self._high = corners.to(device).split(1)

    def synthesize(
        self, batch: int, start: int, stop: int, on_step: StepCallback | None = None
    ) -> SynthesizedBatch:
        """Return dreams ``start`` to ``stop`` of the set, which are its batch number ``batch``.

        The result depends on the teacher, the config, the device and these numbers alone.

        Raises:
            DreamforgeError: If the batch diverges even at an eighth of the rate.
        """
        spec = self._scorer.spec
        targets = balanced_targets(spec.num_classes, self._config.seed, start, stop)
        for attempt in range(MAX_ATTEMPTS):
            lr = self._config.lr / 2**attempt
            best = self._optimize(batch, self._wanted(batch, targets), lr, on_step)
            if not best.diverged():
                break
        else:
            raise DreamforgeError(
                f"batch {batch} diverged {MAX_ATTEMPTS} times, at rate {lr:g} from a loss of "
                f"{float(best.first):.3g} to {float(best.last):.3g}: "
                "lower --lr or use --precision float32"
            )
        loss = best.loss.item()
        images = to_images(self._scorer.denormalize(best.inputs)).contiguous()
        logits = self._scorer.logits(images).cpu()
        if self._config.class_loss == "entropy":  # nobody asked for a class: the answer is it
            targets = logits.argmax(1)
        dreams = DreamBatch(
            images=images.cpu(),
            labels=targets,
            logits=stored_logits(logits, spec.architecture),
            batch=torch.full((stop - start,), batch, dtype=torch.int32),
            loss=torch.full((stop - start,), loss),
        )
        terms = {name: value.item() for name, value in best.terms.items()}
        return SynthesizedBatch(dreams=dreams, terms={**terms, "total": loss}, attempts=attempt + 1)

    def rehearse(self, num_images: int, on_step: StepCallback | None = None) -> None:
        """Do a batch's steps and keep nothing: what an estimate times."""
        targets = balanced_targets(self._scorer.spec.num_classes, self._config.seed, 0, num_images)
        self._optimize(0, self._wanted(0, targets), self._config.lr, on_step)

    def prepare(self) -> str:
        """Compile now, where the config wants it, rather than in the first step.

        Returns:
            Why the network cannot be compiled, and runs without; empty if nothing is wrong.
        """
        if self._compiled is None:
            return ""
        try:
            for num_images in batch_sizes(self._config):
                targets = self._wanted(0, torch.zeros(num_images, dtype=torch.int64))
                shape = (num_images, *self._scorer.spec.image_shape)
                inputs = torch.zeros(shape, device=self._device, requires_grad=True)
                with self._compiled as loss_of:
                    torch.autograd.grad(loss_of(inputs, targets)[0], inputs)
        except compiler_errors() as error:
            self._compiled = None
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return ""

    def _wanted(self, batch: int, targets: Tensor) -> Tensor:
        num_classes = self._scorer.spec.num_classes
        return to_device(soften(self._config, targets, num_classes, batch), self._device)

    def _optimize(
        self, batch: int, targets: Tensor, lr: float, on_step: StepCallback | None
    ) -> _Best:
        config, shape = self._config, self._scorer.spec.image_shape
        steps = config.steps or 1
        draws = generator(config.seed, "batch", batch)
        noise = initial_inputs(config.init, len(targets), shape, draws)
        moves = Moves(config, len(targets), self._low, draws)
        start = to_device(noise, self._device)
        canvas = make_canvas(config.space, start, self._low, self._high, gray=self._gray)
        infinity = torch.full((), torch.inf, device=self._device)
        best = _Best(torch.empty_like(start), infinity, infinity, infinity)
        adam = Adam([canvas.parameters], lr=lr, betas=(config.beta1, config.beta2), fused=True)
        last_read = time.monotonic()
        with self._compiled or self._eager as loss_of:
            for step in range(steps):
                adam.param_groups[0]["lr"] = lr * rate_factor(config, step)
                inputs = canvas.inputs().detach().requires_grad_()
                loss, terms = loss_of(moves(inputs, step), targets)
                best.update(inputs.detach(), loss.detach(), terms)
                best.first = best.first if step else best.last
                (gradient,) = torch.autograd.grad(loss, inputs)
                # Fused Adam walks through memory: a gradient in another layout would be
                # given to the wrong numbers, without an error.
                canvas.parameters.grad = canvas.gradient(gradient)
                adam.step()
                canvas.confine()
                if on_step and time.monotonic() - last_read > SECONDS_BETWEEN_READS:
                    on_step(step + 1, {"loss": loss.item(), **_read(terms)})
                    last_read = time.monotonic()
        return best


def rate_factor(config: SynthesisConfig, step: int) -> float:
    """Return what the learning rate is multiplied with at ``step``: warm-up, then the schedule."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.lr_schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / (config.steps or 1)))


def _read(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}
