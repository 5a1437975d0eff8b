"""Every choice of a synthesis run, its default and its bounds; published settings: presets.

No torch here: ``dreamforge --help`` must answer at once.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from dreamforge.methods import (
    DEFAULT_METHOD,
    METHODS,
    PIXEL_METHODS,
    refuse_idle_options,
    without_idle_options,
)
from shared.config import option, validate
from shared.errors import ConfigError
from shared.spec import SIGMOID, TeacherSpec

SMALL_SIDE = 64  # pixels; up to here the CIFAR-sized settings apply

TARGET_SMOOTHING = 0.1  # Szegedy et al. 2016 (arXiv:1512.00567), section 7
CROP_AREA = 0.25
GENERATOR_STEPS = 10  # Fang et al. 2022, the slowest and best of their three settings


STARTS = ("scenes", "natural", "pink", "white")  # see dreamforge.noise.initial_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisConfig:
    """How dreams are made. Two runs with equal configs and teachers make equal dreams.

    Losses are weighted sums; jitter and clamping act on normalised inputs.
    """

    num_images: int = option(1024, "number of dreams", min=2, flag="--n", metavar="N")
    seed: int = option(0, "seed of every random stream", min=0)
    method: str = option(
        DEFAULT_METHOD,
        "what is optimised: the pixels (inversion; Yin et al. 2020), also against pruned copies of "
        "the teacher (adaptive), or a small network that makes them (generator; Fang et al. 2022: "
        "faster)",
        choices=METHODS,
    )
    steps: int | None = option(
        None,
        "Adam steps per batch  [default: 100 up to 64 px, else 1000; generator: 10]",
        min=1,
    )
    batch_size: int | None = option(
        None,
        "dreams that share BatchNorm statistics; auto: 256 up to 64 px, else 64, halved until it "
        "fits into memory  [default: auto]",
        min=2,
        metavar="N|auto",
        auto=True,
    )
    lr: float = option(
        0.1,
        "Adam's rate: of normalised inputs, or in --space natural of their coordinates' deviations",
        above=0,
    )
    beta1: float = option(0.5, "Adam's first moment decay", min=0, below=1)
    beta2: float = option(0.99, "Adam's second moment decay", min=0, below=1)
    lr_schedule: str = option("cosine", "rate over the steps", choices=("cosine", "constant"))
    warmup: int = option(0, "steps of linear warm-up", min=0)
    class_loss: str = option(
        "cross-entropy",
        "towards class-balanced targets, or any confident answer (entropy)",
        choices=("cross-entropy", "entropy"),
    )
    class_weight: float = option(1.0, "weight of the class loss", min=0)
    targets: str = option(
        "hard",
        "one class per image; the same smoothed (soft); or a mixture of two in which the stored "
        "label is the larger part (pairs)",
        choices=("hard", "soft", "pairs"),
    )
    target_smoothing: float | None = option(
        None,
        "soft targets: what is spread evenly over all classes  [default: 0.1]",
        above=0,
        below=1,
    )
    diversity_weight: float = option(
        0.0, "weight of the spread of runner-up classes within each class", min=0
    )
    competition_weight: float = option(
        1.0, "adaptive: weight of the opponents' agreement with the teacher", min=0
    )
    opponent_sparsity: str = option(
        "0.8,0.95", "adaptive: sparsities of the pruned copies, separated by commas", metavar="LIST"
    )
    opponent_temperature: float = option(
        3.0, "adaptive: temperature at which answers are compared", above=0
    )
    bn_distance: str = option(
        "kl",
        "kl: Gaussian KL per channel, averaged over channels and layers; "
        "l2: sum of norms (Yin et al. 2020)",
        choices=("kl", "l2"),
    )
    bn_weight: float = option(100.0, "weight of the BatchNorm distance", min=0)
    first_bn_multiplier: float = option(1.0, "extra weight of the first BatchNorm", above=0)
    image_norm: str = option(
        "mean-square",
        "how total variation and L2 are measured: mean-square per pixel, "
        "l2 norms over the batch (Yin et al. 2020), l1 sums",
        choices=("mean-square", "l2", "l1"),
    )
    tv_weight: float = option(0.0, "weight of the total variation", min=0)
    l2_weight: float = option(0.0, "weight of the inputs' L2", min=0)
    jitter_kind: str | None = option(
        None,
        "how images move before each step: each by itself, padded with black and cropped, as small "
        "images are in training (crop), or cropped and magnified, as large ones are "
        "(resized-crop); or all rolled together (roll)  "
        "[default: crop up to 64 pixels, then resized-crop, or roll where --jitter is given]",
        choices=("crop", "resized-crop", "roll"),
    )
    jitter: int | None = option(
        None,
        "pixels that they move at most, each way  [default: crop: side / 8; roll: side / 16]",
        min=0,
    )
    crop_area: float | None = option(
        None,
        "resized-crop: least share of the image that is seen  [default: 0.25]",
        above=0,
        max=1,
    )
    flip: bool = option(True, "random horizontal flip per step")
    space: str = option(
        "natural",
        "what a step moves: every pixel by itself, or numbers in which natural images are "
        "uncorrelated (after Olah et al. 2017)",
        choices=("natural", "pixels"),
    )
    init: str = option(
        "scenes",
        "what to start from: drawn scenes of overlapping things, for photographs; noise like "
        "photographs in spectrum, brightness, tint and contrast (natural); with a 1/f spectrum "
        "only (pink); or white",
        choices=STARTS,
    )
    precision: str = option(
        "auto",
        "of the convolutions; auto: bfloat16 where the device is fast in it (CUDA from 8.0, AMX)",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: str = option(
        "auto",
        "compile the network first (about a minute); auto: where the run is long enough to earn it",
        choices=("auto", "on", "off"),
    )
    generator_lr: float = option(0.01, "generator: Adam's rate of its weights", above=0)
    latent_lr: float = option(0.05, "generator: Adam's rate of the latents", above=0)
    generator_width: int = option(32, "generator: channels before the last stage", min=2)
    latent_size: int = option(256, "generator: random numbers that each image comes from", min=1)
    mode_seeking_weight: float = option(
        0.5, "generator: weight of how alike the dreams of one class are", min=0
    )
    meta_batches: int = option(
        20, "generator: batches to learn the common start on, before the first dream", min=0
    )
    outer_rate: float = option(
        0.5, "generator: share of a batch's change that the common start takes", min=0, max=1
    )
    stats_momentum: float = option(
        0.9, "generator: weight of earlier batches in the BatchNorm statistics", min=0, below=1
    )
    shard_size: int | None = option(
        None,
        "dreams per shard, rounded to whole batches  [default: 16 shards, at most 64 MiB]",
        min=1,
    )
    compress: bool = option(False, "gzip the images inside the shards")

    def __post_init__(self) -> None:
        validate(self)
        refuse_idle_options(self)
        parse_sparsities(self.opponent_sparsity)
        if self.targets != "hard" and self.class_loss == "entropy":
            raise ConfigError(
                f"--targets {self.targets}: found --class-loss entropy, which has no targets, "
                "expected cross-entropy"
            )
        if self.targets != "soft" and self.target_smoothing is not None:
            raise ConfigError(f"--target-smoothing: found --targets {self.targets}, expected soft")
        if self.jitter_kind == "resized-crop" and self.jitter:
            raise ConfigError(
                f"--jitter {self.jitter}: found --jitter-kind resized-crop, which takes "
                "--crop-area instead"
            )

    def resolve(self, image_shape: tuple[int, int, int]) -> "SynthesisConfig":
        """Return the config with every automatic choice made for images of ``(C, H, W)``."""
        side = max(image_shape[1:])
        small = side <= SMALL_SIDE
        usual = 100 if small else 1000
        steps = self.steps or (GENERATOR_STEPS if self.method == "generator" else usual)
        batch_size = min(self.batch_size or (256 if small else 64), self.num_images)
        kind = self._moves(small=small)
        usual_jitter = {"crop": side // 8, "resized-crop": 0}.get(kind or "roll", side // 16)
        jitter = self.jitter if self.jitter is not None else usual_jitter
        if self.crop_area is not None and kind != "resized-crop":
            raise ConfigError(
                f"--crop-area: found --jitter-kind {kind or 'roll'}, expected resized-crop"
            )
        return dataclasses.replace(
            self,
            steps=steps,
            batch_size=batch_size,
            jitter_kind=kind,
            jitter=min(jitter, side - 1),
            crop_area=self.crop_area or (CROP_AREA if kind == "resized-crop" else None),
            target_smoothing=self._target_smoothing(),
            shard_size=self.shard_size or _shard_size(self.num_images, batch_size, image_shape),
        )

    def _moves(self, *, small: bool) -> str | None:
        if self.method not in PIXEL_METHODS:
            return None  # no choice: they roll
        usual = "crop" if small else "resized-crop" if self.jitter is None else "roll"
        return self.jitter_kind or usual

    def _target_smoothing(self) -> float | None:
        return self.target_smoothing or TARGET_SMOOTHING if self.targets == "soft" else None

    def to_json(self) -> dict[str, Any]:
        """Return the choices that this method looks at, as JSON types."""
        return without_idle_options(dataclasses.asdict(self))


def refuse_for_sigmoids(config: SynthesisConfig, spec: TeacherSpec) -> None:
    """Raise ConfigError where a target is a mixture, and the teacher's classes exclude nothing."""
    if spec.answers == SIGMOID and config.targets != "hard":
        raise ConfigError(
            f"--targets {config.targets}: found a teacher that answers with sigmoids, expected hard"
        )


def parse_sparsities(text: str) -> tuple[float, ...]:
    """Return the numbers of a comma list such as ``0.8,0.95``.

    Raises:
        ConfigError: If it is empty, or one of them is no sparsity above 0 and below 1.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < sparsity < 1 for sparsity in found):
        raise ConfigError(
            f"--opponent-sparsity: found {text!r}, expected numbers above 0 and below 1, "
            "separated by commas"
        )
    return found


def _shard_size(num_images: int, batch_size: int, image_shape: tuple[int, int, int]) -> int:
    """Return a sixteenth of the set in whole batches, but never more than 64 MiB of images."""
    channels, height, width = image_shape
    num_batches = -(-num_images // batch_size)
    most = max(1, 64 * 2**20 // (batch_size * channels * height * width))
    return min(most, -(-num_batches // 16)) * batch_size
