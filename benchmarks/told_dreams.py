"""Dreams that were told something of real images: what is it that dreams lack?

    python benchmarks/told_dreams.py make variation --teacher resnet20.pt --real cifar/train \
        --n 1020 --steps 120 --out variation.h5
    recover run --teacher resnet20.pt --dreams variation.h5 --sparsity 0.95

No way of making dreams, since it needs what is out of reach, but an experiment: the loop of
``dreamforge synth`` with one thing known of the training images. If students gain by it, dreams
lack it. KIND is

    nothing    the same loop, told nothing: what the others are compared with
    start      each dream starts from a real image of its class
    features   each dream is to have a real image's features where --at says (and no class)
    variation  between the dreams of a batch, features are to vary as they do between real images:
               the covariance of their means over places, at all layers whose name has --at
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click
import torch
from PIL import Image
from torch import Tensor, nn
from transfer_sets import set_options, write_set

from dreamforge.bn_stats import BatchNormMonitor
from dreamforge.canvas import make_canvas
from dreamforge.config import SynthesisConfig
from dreamforge.engine import rate_factor
from dreamforge.inversion_loss import inversion_copy
from dreamforge.moves import Moves
from dreamforge.noise import balanced_targets, initial_inputs
from dreamforge.objective import objective
from recover.features import Key, feature_distance, feature_scales, features_of
from shared.cli import Tool
from shared.device import autocast, compute_dtype
from shared.errors import ConfigError
from shared.evaldata import EvalData, open_eval_data
from shared.images import to_images, to_pixels
from shared.progress import Progress, ProgressCallback
from shared.seeding import generator
from shared.teacher import Teacher

KINDS = ("nothing", "start", "features", "variation")
FEATURE_WEIGHT = 100.0  # of the share of the features that is missed
VARIATION_WEIGHT = 10.0  # of the divergence, in nats per channel
NUM_REAL = 2048  # whose covariances are told
RIDGE = 0.01  # of the mean variance, so that a covariance has an inverse
CPU = torch.device("cpu")


class Term(Protocol):
    """What is told: a loss of the features of the dreams as they are."""

    def __call__(self, features: Mapping[Key, Tensor]) -> Tensor:
        """Return a float32 scalar."""


class FeatureTerm:
    """The weighted share that dreams miss of real images' features at one layer.

    Args:
        real: Features of as many real images, of the layers that count.
    """

    def __init__(self, real: Mapping[Key, Tensor]) -> None:
        self._real = real
        self._scales = feature_scales(real)

    def __call__(self, features: Mapping[Key, Tensor]) -> Tensor:
        """Return it for the dreams' features, those of other layers left aside."""
        return FEATURE_WEIGHT * feature_distance(features, self._real, self._scales)


class VariationTerm:
    """The weighted distance between the variation of dreams and that of real images.

    Per layer the KL divergence of Gaussians, of the images' mean features; per channel, and the
    mean over the layers.

    Args:
        real: Mean features ``(N, C)`` of real images, by layer.
    """

    def __init__(self, real: Mapping[Key, Tensor]) -> None:
        self._real = {key: _gaussian(means) for key, means in real.items()}

    def __call__(self, features: Mapping[Key, Tensor]) -> Tensor:
        """Return it for the dreams' features, those of other layers left aside."""
        divergences = []
        for key, (mean, covariance) in self._real.items():
            own_mean, own = _gaussian(image_means(features[key]))
            inverse, offset = torch.linalg.inv(covariance), own_mean - mean
            spread = torch.trace(inverse @ own) + offset @ inverse @ offset - len(mean)
            volume = torch.logdet(covariance) - torch.logdet(own)
            divergences.append((spread + volume) / (2 * len(mean)))
        return VARIATION_WEIGHT * torch.stack(divergences).mean()


def image_means(features: Tensor) -> Tensor:
    """Return float32 ``(N, C)``: each image's means over places of ``(N, C, ...)``."""
    return features.float().flatten(2).mean(2) if features.dim() > 2 else features.float()


def _gaussian(means: Tensor) -> tuple[Tensor, Tensor]:
    center = means.mean(0)
    covariance = (means - center).T @ (means - center) / len(means)
    ridge = RIDGE * covariance.diagonal().mean().detach().clamp_min(1e-12)
    return center, covariance + ridge * torch.eye(len(center))


class ToldDreams:
    """Makes batches of dreams on the CPU that are told one thing of real images.

    Args:
        kind: One of :data:`KINDS`.
        teacher: On the CPU.
        config: Resolved.
        data: Real images, with their classes.
        at: Part of the names of the layers that are told of, a regular expression.

    Raises:
        ConfigError: If no layer has such a name.
    """

    def __init__(
        self, kind: str, teacher: Teacher, config: SynthesisConfig, data: EvalData, at: str
    ) -> None:
        self._kind, self._teacher, self._data, self._at = kind, teacher, data, re.compile(at)
        places = kind == "features"  # each feature has its place, so dreams must not move
        self._config = dataclasses.replace(
            config,
            class_weight=0.0 if places else config.class_weight,
            jitter_kind="roll" if places else config.jitter_kind,
            jitter=0 if places else config.jitter,
            crop_area=None if places else config.crop_area,
            flip=config.flip and not places,
        )
        self._dtype = compute_dtype(CPU, config.precision)
        self._network = inversion_copy(teacher.network, CPU, self._dtype)
        self._variation = VariationTerm(self._real_means()) if kind == "variation" else None

    def images(self, batch: int, start: int, stop: int, progress: ProgressCallback) -> Tensor:
        """Return dreams ``start`` to ``stop``, batch number ``batch``: uint8 ``(N, C, H, W)``."""
        config, shape = self._config, self._teacher.spec.image_shape
        targets = balanced_targets(self._teacher.spec.num_classes, config.seed, start, stop)
        draws = generator(config.seed, "batch", batch)
        inputs = initial_inputs(config.init, len(targets), shape, draws)
        term: Term | None = self._variation
        if self._kind in ("start", "features"):
            real = self._teacher.normalize(to_pixels(self._real_images(targets, batch)))
            inputs = real if self._kind == "start" else inputs
            if self._kind == "features":
                term = FeatureTerm(self._told(self._features(self._network, real)))
        low, high = (
            self._teacher.normalize(torch.full((1, *shape), value))[:, :, :1, :1]
            for value in (0.0, 1.0)
        )
        moves = Moves(config, len(targets), low, draws)
        canvas = make_canvas(config.space, inputs, low, high)
        adam = torch.optim.Adam(
            [canvas.parameters], lr=config.lr, betas=(config.beta1, config.beta2)
        )
        with BatchNormMonitor(self._network) as monitor:
            for step in range(config.steps or 1):
                adam.param_groups[0]["lr"] = config.lr * rate_factor(config, step)
                free = canvas.inputs().detach().requires_grad_()
                inputs = moves(free, step)
                with features_of(self._network) as features:
                    logits = self._answers(inputs)
                loss, _ = objective(config, inputs, logits, targets, monitor.take())
                if term is not None:
                    loss = loss + term(features)
                (gradient,) = torch.autograd.grad(loss, free)
                canvas.parameters.grad = canvas.gradient(gradient)
                adam.step()
                canvas.confine()
                done = start + (stop - start) * (step + 1) // (config.steps or 1)
                progress(Progress(stage="tell", done=done, total=config.num_images, unit="images"))
        return to_images(self._teacher.denormalize(canvas.inputs().detach()))

    def _answers(self, inputs: Tensor) -> Tensor:
        with autocast(CPU, self._dtype):
            logits: Tensor = self._network(inputs.contiguous(memory_format=torch.channels_last))
        return logits

    def _features(self, network: nn.Module, inputs: Tensor) -> dict[Key, Tensor]:
        with torch.no_grad(), features_of(network) as features:
            self._answers(inputs)
        return features

    def _told(self, features: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        told = {key: value for key, value in features.items() if self._at.search(key[0])}
        if not told:
            names = ", ".join(name for name, _ in features)
            raise ConfigError(f"--at: found {self._at.pattern!r}, expected part of one of {names}")
        return told

    def _real_images(self, targets: Tensor, batch: int) -> Tensor:
        draws = generator(self._config.seed, "told", batch)
        chosen = []
        for target in targets.tolist():
            members = (self._data.labels == target).nonzero().flatten()
            chosen.append(members[torch.randint(len(members), (), generator=draws)])
        return self._data.images[torch.stack(chosen)]

    def _real_means(self) -> dict[Key, Tensor]:
        draws = generator(self._config.seed, "told")
        order = torch.randperm(len(self._data.labels), generator=draws)[:NUM_REAL]
        parts: dict[Key, list[Tensor]] = {}
        for rows in order.split(256):
            inputs = self._teacher.normalize(to_pixels(self._data.images[rows]))
            for key, value in self._told(self._features(self._network, inputs)).items():
                parts.setdefault(key, []).append(image_means(value))
        return {key: torch.cat(each) for key, each in parts.items()}


@click.group(cls=Tool, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make dreams that were told something of real images."""


@main.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--real", required=True, help="training images, as recover run --eval-data")
@click.option("--at", default="", help="part of the names of layers  [default: all]")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--init", default="scenes", show_default=True, help="as dreamforge synth")
@set_options
def make(kind: str, real: str, at: str, steps: int, init: str, **options: Any) -> None:
    """Make dreams that were told KIND."""

    def fill(teacher: Teacher, folder: Path, progress: ProgressCallback) -> None:
        number, seed = options["num_images"], options["seed"]
        config = SynthesisConfig(
            num_images=number, steps=steps, init=init, seed=seed, compile="off"
        ).resolve(teacher.spec.image_shape)
        told = ToldDreams(kind, teacher, config, open_eval_data(real, teacher.spec), at)
        size = config.batch_size or number
        (folder / "images").mkdir(parents=True)
        for batch, start in enumerate(range(0, number, size)):
            images = told.images(batch, start, min(start + size, number), progress)
            for row, image in enumerate(images.permute(0, 2, 3, 1).numpy(), start):
                Image.fromarray(image.squeeze()).save(folder / "images" / f"{row:06d}.png")

    write_set(f"told {kind}", options, fill, synthetic=True)


if __name__ == "__main__":
    main()
