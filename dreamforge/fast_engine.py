"""The fast engine: a generator with a learned start makes each batch in a few steps.

Fang et al. 2022 (arXiv:2112.06253): batches have most of what makes an image recognisable in
common, so the generator that makes it is learned over the stream of batches (here with the rule
of Reptile, Nichol et al. 2018, arXiv:1803.02999) and adapted to each in a few steps.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamforge.bn_stats import BatchNormMonitor, BatchStats
from dreamforge.config import SynthesisConfig
from dreamforge.engine import (
    MAX_ATTEMPTS,
    SECONDS_BETWEEN_READS,
    StepCallback,
)
from dreamforge.generator import initial_generator
from dreamforge.inversion_loss import inversion_copy
from dreamforge.mode_seeking import FeatureTap, likeness, same_class_pairs
from dreamforge.moves import jitters, move
from dreamforge.noise import balanced_targets
from dreamforge.objective import objective
from dreamforge.stream_stats import StreamStats
from shared.answers import has_sigmoids
from shared.device import autocast, compute_dtype, reproducible_convolutions, to_device
from shared.errors import DreamforgeError
from shared.layout import layout_of
from shared.optimizers import Adam
from shared.seeding import derive_seed, generator
from shared.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """Where the generator starts from for the next batch, and what the batches so far showed.

    Attributes:
        weights: The generator's parameters, float32.
        stats: Of the batches that it learned on.
    """

    weights: tuple[Tensor, ...]
    stats: StreamStats = field(default_factory=StreamStats)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapted:
    """A batch, and the start for the next.

    Attributes:
        inputs: Normalised ``(N, C, H, W)``, float32.
        terms: Unweighted loss terms of exactly these inputs, and their weighted ``total``.
        next_start: With what this batch has taught.
        attempts: 1, or more when it diverged and was made with lower rates.
    """

    inputs: Tensor
    terms: dict[str, float]
    next_start: Start
    attempts: int


class FastEngine:
    """Adapts a generator to batches, for one teacher on one device with one config.

    It remembers nothing from batch to batch: what is learned is handed in and out as a
    :class:`Start`.

    Args:
        teacher: On any device; it is copied, and itself left alone.
        config: Resolved (see :meth:`SynthesisConfig.resolve`).
        device: Where to compute.
    """

    def __init__(self, teacher: Teacher, config: SynthesisConfig, device: torch.device) -> None:
        self.scorer = teacher.to(device)
        self.config = config
        self.device = device
        self._dtype = compute_dtype(device, config.precision)
        self._network = inversion_copy(teacher.network, device, self._dtype)
        self._layout = layout_of(self._network)
        self._sigmoids = has_sigmoids(self._network)
        self._monitor = BatchNormMonitor(self._network)
        self._tap = FeatureTap(self._network)
        self._generator = initial_generator(
            teacher.spec.image_shape,
            teacher.spec.num_classes,
            latent_size=config.latent_size,
            width=config.generator_width,
            seed=config.seed,
        ).to(device)
        self._generator.to(memory_format=torch.channels_last)
        self.initial = Start(weights=self._weights())

    def learn(self, start: Start) -> Adapted:
        """Make the next batch of those that are only learned from; ``start`` says which that is."""
        number, size = start.stats.num_batches, self.config.batch_size or 1
        targets = balanced_targets(
            self.scorer.spec.num_classes,
            derive_seed(self.config.seed, "meta"),
            number * size,
            (number + 1) * size,
        )
        draws = generator(self.config.seed, "meta", number)
        return self.adapt(f"batch {number} before the first", targets, draws, start)

    def adapt(
        self,
        name: str,
        targets: Tensor,
        draws: torch.Generator,
        start: Start,
        on_step: StepCallback | None = None,
    ) -> Adapted:
        """Return a batch for ``targets``, int64 ``(N,)``, made from ``start``.

        The result depends on the teacher, the config, the device and these arguments alone.

        Args:
            name: For errors.
            targets: On any device.
            draws: Where latents and moves come from.
            start: Left as it is.
            on_step: Called about once a second.

        Raises:
            DreamforgeError: If the batch diverges even at an eighth of the rates.
        """
        latents = torch.randn(len(targets), self.config.latent_size, generator=draws)
        moves = jitters(
            self.config.steps or 1, self.config.jitter or 0, draws, flip=self.config.flip
        )
        for attempt in range(MAX_ATTEMPTS):
            with reproducible_convolutions(), self._monitor, self._tap:
                inputs, terms, stats = self._optimize(
                    to_device(latents, self.device),
                    to_device(targets, self.device),
                    moves,
                    start,
                    1 / 2**attempt,
                    on_step,
                )
            if math.isfinite(terms["total"]):
                break
        else:
            raise DreamforgeError(
                f"{name} diverged {MAX_ATTEMPTS} times: lower --generator-lr, or use "
                "--precision float32"
            )
        learned = Start(
            weights=toward(start.weights, self._weights(), self.config.outer_rate),
            stats=start.stats.after(stats, self.config.stats_momentum),
        )
        return Adapted(inputs=inputs, terms=terms, next_start=learned, attempts=attempt + 1)

    def rehearse(self, num_images: int, on_step: StepCallback | None = None) -> None:
        """Do a batch's steps and keep nothing: what an estimate times."""
        targets = balanced_targets(self.scorer.spec.num_classes, self.config.seed, 0, num_images)
        draws = generator(self.config.seed, "batch", 0)
        self.adapt("batch 0", targets, draws, self.initial, on_step)

    def _optimize(
        self,
        latents: Tensor,
        targets: Tensor,
        moves: Sequence[tuple[int, ...]],
        start: Start,
        factor: float,
        on_step: StepCallback | None,
    ) -> tuple[Tensor, dict[str, float], list[BatchStats]]:
        config, parameters = self.config, list(self._generator.parameters())
        with torch.no_grad():
            for parameter, weight in zip(parameters, start.weights, strict=True):
                parameter.copy_(weight)
        latents = latents.clone().requires_grad_()  # the caller's stay as drawn, for a retry
        adam = Adam(
            [
                {"params": parameters, "lr": factor * config.generator_lr},
                {"params": [latents], "lr": factor * config.latent_lr},
            ],
            betas=(config.beta1, config.beta2),
        )
        pairs = same_class_pairs(targets)
        last_read = time.monotonic()
        for step, moved_by in enumerate(moves):
            inputs = move(self._inputs(latents, targets), *moved_by)
            loss, terms, _ = self._loss(inputs, targets, pairs, start.stats)
            adam.zero_grad()
            loss.backward()
            adam.step()
            if on_step and time.monotonic() - last_read > SECONDS_BETWEEN_READS:
                on_step(step + 1, {"loss": loss.item(), **_read(terms)})
                last_read = time.monotonic()
        with torch.no_grad():
            inputs = self._inputs(latents, targets)
            loss, terms, stats = self._loss(inputs, targets, pairs, start.stats)
        return inputs, {**_read(terms), "total": loss.item()}, stats

    def _inputs(self, latents: Tensor, targets: Tensor) -> Tensor:
        with autocast(self.device, self._dtype):
            pixels = self._generator(latents, targets)
        return self.scorer.normalize(pixels)

    def _loss(
        self,
        inputs: Tensor,
        targets: Tensor,
        pairs: tuple[Tensor, Tensor],
        before: StreamStats,
    ) -> tuple[Tensor, dict[str, Tensor], list[BatchStats]]:
        with autocast(self.device, self._dtype):
            logits = self._network(inputs.contiguous(memory_format=self._layout))
        stats = self._monitor.take()
        merged = before.including(stats, self.config.stats_momentum)
        loss, terms = objective(
            self.config, inputs, logits, targets, merged, sigmoids=self._sigmoids
        )
        features = self._tap.take()
        if self.config.mode_seeking_weight:
            # Either alone leaves the other: one palette per class, or one drawing (docs/method.md).
            value = (likeness(inputs, pairs) + likeness(features, pairs)) / 2
            loss = loss + self.config.mode_seeking_weight * value
            terms["likeness"] = value.detach()
        return loss, terms, stats

    def _weights(self) -> tuple[Tensor, ...]:
        return tuple(parameter.detach().clone() for parameter in self._generator.parameters())


def toward(weights: Sequence[Tensor], adapted: Sequence[Tensor], rate: float) -> tuple[Tensor, ...]:
    """Return ``weights`` moved by ``rate`` of the way to ``adapted``: the update of Reptile."""
    return tuple(
        torch.lerp(before, after, rate) for before, after in zip(weights, adapted, strict=True)
    )


def _read(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}
