"""Every choice of a recovery run, its default, its bounds and where published settings come from.

No torch here: ``recover --help`` must answer at once.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from recover.together import refuse_beside_channels, refuse_beside_pattern, refuse_start
from recover.usual import usual_allocation, usual_importance
from shared.config import option, validate
from shared.errors import ConfigError

FEATURE_WEIGHT = 10.0
USUAL_RATE = 0.05
USUAL_CLIP = 0.2
USUAL_SHARE = 0.25  # of a batch, for --unlabeled


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverConfig:
    """How a student is pruned, repaired and taught.

    Two runs with equal configs, teachers and dream sets make equal students on the same device.
    """

    sparsity: float = option(
        0.8, "fraction of the prunable weights that become zero", min=0, below=1
    )
    channels: float | None = option(
        None,
        "instead of setting weights to zero remove channels, until the network computes as little "
        "as with this fraction of every layer's: it gets smaller, faster, and stays dense",
        above=0,
        max=1,
        metavar="FRACTION",
    )
    pattern: str | None = option(
        None,
        "instead of any weights keep N of every M along the input channels, such as 2:4, which "
        "sparse tensor cores skip; layers without a multiple of M input channels stay dense",
        metavar="N:M",
    )
    round_to: int = option(
        1,
        "--channels: keep numbers of channels that are multiples of this, such as the 8 or 16 that "
        "hardware computes at once; layers with fewer keep all or any number of theirs",
        min=1,
    )
    importance: str | None = option(
        None,
        "what makes a weight worth keeping; magnitude: its absolute value; fisher: that times the "
        "root of its mean squared gradient over the last steps (Theis et al. 2018), only with "
        "--schedule gradual; random: chance, a control  [default: magnitude; fisher where it is "
        "possible with --channels, and from a sparsity of 0.97 on]",
        choices=("magnitude", "fisher", "random"),
    )
    allocation: str | None = option(
        None,
        "how many weights each layer keeps; global: the best of the whole network (of channels, "
        "with --importance fisher: those worth most for what they cost); uniform: the "
        "same share everywhere; erk: by the sum of its dimensions (Evci et al. 2020); lamp: "
        "by importance relative to the layer's more important weights (Lee et al. 2021)  "
        "[default: global; lamp from a sparsity of 0.97 on where --importance is fisher]",
        choices=("global", "uniform", "erk", "lamp"),
    )
    student: str | None = option(
        None,
        "teach another architecture than the teacher's: resnet20, a torchvision name, timm:NAME or "
        "package.module:factory; nothing of it is pruned unless --sparsity says so",
        metavar="ARCH",
    )
    student_weights: str | None = option(
        None, "checkpoint that --student starts from  [default: random weights]", metavar="FILE"
    )
    keep: str | None = option(
        None,
        "tensors that are never pruned: glob patterns of their names, separated by commas; the "
        "sparsity still counts all prunable weights",
        metavar="PATTERNS",
    )
    keep_first: bool = option(False, "never prune the first layer")
    keep_last: bool = option(False, "never prune the last layer")
    schedule: str = option(
        "gradual",
        "gradual: prune along a cubic curve while distilling; one-shot: prune, then distil",
        choices=("gradual", "one-shot"),
    )
    prune_end: float = option(
        0.6, "gradual: fraction of the steps after which the sparsity is final", above=0, max=1
    )
    prune_every: int = option(5, "gradual: steps between two updates of the masks", min=1)
    steps: int = option(1500, "distillation steps; 0 prunes and repairs only", min=0)
    batch_size: int = option(128, "dreams per step", min=2)
    lr: float | None = option(
        None,
        "peak rate of SGD  [default: 0.05; 0.1 for a student from random weights]",
        above=0,
    )
    lr_schedule: str = option(
        "cosine",
        "rate after the warm-up: cosine to zero, or constant",
        choices=("cosine", "constant"),
    )
    warmup: float = option(
        0.03, "fraction of the steps in which the rate rises linearly", min=0, below=1
    )
    momentum: float = option(0.9, "momentum of SGD", min=0, below=1)
    nesterov: bool = option(True, "Nesterov's form of the momentum")
    clip: float | None = option(
        None,
        "shorten the gradient of every layer to so many times the length of its weights, and three "
        "times that for biases and BatchNorm (adaptive gradient clipping, Brock et al. 2021); 0: "
        "never  [default: 0.2; 0 with --student]",
        min=0,
    )
    weight_decay: float = option(1e-4, "weight decay of convolution and linear weights", min=0)
    temperature: float = option(4.0, "temperature of both softmaxes", above=0)
    scale_loss: bool = option(
        True, "multiply the loss by the temperature squared (Hinton et al. 2015)"
    )
    standardize_logits: bool = option(
        False,
        "give the logits of every image mean 0 and deviation 1 before the softmaxes (Sun et al. "
        "2024); then lower --temperature, such as 2",
    )
    feature_weight: float | None = option(
        None,
        "weight of how far what every layer takes in is from the teacher's (after Romero et al. "
        "2015)  [default: 10; 0 with --student]",
        min=0,
    )
    mix: str = option(
        "both",
        "mix the dreams of a batch; the teacher answers to the mixtures; both: half of them each",
        choices=("none", "cutmix", "mixup", "both"),
    )
    flip: bool = option(True, "random horizontal flips")
    shift: int | None = option(
        None, "random shifts, pixels each way  [default: image side / 8]", min=0
    )
    bn_mode: str = option(
        "train",
        "BatchNorm while distilling: statistics of the batch, or frozen running ones",
        choices=("train", "frozen"),
    )
    ema: float = option(
        0.0,
        "save the average of the student over the steps, with this decay, such as 0.99, instead of "
        "the last one; 0: off",
        min=0,
        below=1,
    )
    repair: str = option(
        "batch-norm",
        "after pruning; batch-norm: estimate the statistics again on dreams; matched: "
        "give every channel the mean and variance that it has in the dense network on the same "
        "dreams (after Jordan et al. 2023), and correct the biases that no BatchNorm follows",
        choices=("none", "batch-norm", "matched"),
    )
    reconstruct: str = option(
        "none",
        "before the repair; least-squares: fit the weights that are left, layer by layer, to the "
        "dense network's outputs on dreams (after Hubara et al. 2021); a gradual run starts dense "
        "and only reports it",
        choices=("none", "least-squares"),
    )
    repair_images: int = option(
        2048, "dreams that repair and reconstruction look at; 0: neither of them", min=0
    )
    final_repair: bool = option(
        False, "re-estimate them again at the end, kept if agreement on held-out dreams is no lower"
    )
    holdout: float = option(
        0.1, "fraction of the dreams, class by class, kept for measuring agreement", min=0, max=0.5
    )
    unlabeled: str | None = option(
        None,
        "real images that may be learnt from, a folder of them: in every batch beside the dreams; "
        "nobody needs to have labelled them",
        metavar="FOLDER",
    )
    unlabeled_share: float | None = option(
        None, "--unlabeled: their part of every batch  [default: 0.25]", above=0, below=1
    )
    seed: int = option(0, "seed of every random stream", min=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    precision: str = option(
        "auto",
        "of the convolutions while distilling; auto: bfloat16 where the device is fast in it "
        "(CUDA from 8.0, AMX)",
        choices=("auto", "float32", "bfloat16"),
    )
    checkpoint_every: float = option(60.0, "seconds between two checkpoints", above=0)
    # No flag of a run: the sparsity of the level that `recover sweep --warm-start` starts this one
    # from, 0 where that is the teacher; with --channels the fraction of them, 1 where it is. The
    # level before has the same config otherwise, so this number says which student it is.
    warm_start: float | None = None

    def __post_init__(self) -> None:
        validate(self)
        if self.allocation == "lamp" and self.importance == "random":
            raise ConfigError(
                "--allocation lamp: found --importance random, expected magnitude or fisher, "
                "which is what LAMP rescales"
            )
        if self.importance == "fisher" and (self.schedule == "one-shot" or self.steps == 0):
            raise ConfigError(
                "--importance fisher: found pruning in one shot, expected --schedule gradual with "
                "--steps, whose gradients it goes by; --importance magnitude needs none"
            )
        if self.student_weights is not None and self.student is None:
            raise ConfigError(
                f"--student-weights {self.student_weights}: found no --student, expected the "
                "architecture that the weights are of"
            )
        if self.bn_mode == "frozen" and self.student and self.student_weights is None:
            raise ConfigError(
                f"--bn-mode frozen: found --student {self.student} with random weights, expected "
                "train, or --student-weights: its BatchNorm remembers nothing yet"
            )
        if self.feature_weight and self.student:
            raise ConfigError(
                f"--feature-weight {self.feature_weight:g}: found --student {self.student}, "
                "expected a pruned copy of the teacher, which has the same layers; leave it out"
            )
        if self.reconstruct != "none" and self.repair_images == 0:
            raise ConfigError(
                f"--reconstruct {self.reconstruct}: found --repair-images 0, expected dreams to "
                "fit the weights to"
            )
        if self.student and self.student_weights is None and self.repair_images:
            for name, value in (("--repair", self.repair), ("--reconstruct", self.reconstruct)):
                if value in ("matched", "least-squares"):
                    raise ConfigError(
                        f"{name} {value}: found --student {self.student} with random weights, "
                        "expected a trained network to be near to; pass --student-weights"
                    )
        if self.unlabeled_share is not None and self.unlabeled is None:
            raise ConfigError(
                f"--unlabeled-share {self.unlabeled_share:g}: found no --unlabeled, expected a "
                "folder of images"
            )
        refuse_beside_channels(self)
        refuse_beside_pattern(self)
        refuse_start(self)
        if self.final_repair and self.holdout == 0:
            raise ConfigError(
                "--final-repair: found --holdout 0, expected held-out dreams to judge by"
            )

    def resolve(self, image_shape: tuple[int, int, int]) -> "RecoverConfig":
        """Return the config with every automatic choice made.

        Args:
            image_shape: ``(C, H, W)``.
        """
        shift = self.shift if self.shift is not None else min(image_shape[1:]) // 8
        weight = self.feature_weight
        if weight is None:
            weight = 0.0 if self.student else FEATURE_WEIGHT
        importance = self.importance or usual_importance(self.to_json())
        allocation = usual_allocation({**self.to_json(), "importance": importance})
        clip = self.clip
        if clip is None:
            clip = 0.0 if self.student else USUAL_CLIP
        share = self.unlabeled_share
        if share is None and self.unlabeled is not None:
            share = USUAL_SHARE
        return dataclasses.replace(
            self,
            importance=importance,
            allocation=self.allocation or allocation,
            shift=min(shift, min(image_shape[1:]) - 1),
            feature_weight=weight,
            lr=USUAL_RATE if self.lr is None else self.lr,
            clip=clip,
            unlabeled_share=share,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the config as JSON types."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """Return the choices that decide the result, without those that decide where and how."""
        record = self.to_json()
        for name in ("device", "checkpoint_every"):
            del record[name]
        return record
