"""Everything a run needs before the first forward pass, checked against each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from recover.allocation import whole_layers
from recover.config import RecoverConfig
from recover.folder import CONTENTS
from recover.holdout import Split, split_rows
from recover.pattern import pattern_sparsity
from recover.remarks import few_held_out, never_pruned
from recover.student import origin_of_student
from recover.unlabeled import MixedFeed, Unlabeled, num_unlabeled_per_batch, unlabeled_of
from shared.device import resolve_device
from shared.distributed import ALONE, Group
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError
from shared.evaldata import EvalData
from shared.feed import Feed
from shared.magnitude import prunable_weights, unprunable_layers
from shared.spec import SIGMOID, TeacherSpec
from shared.teacher import Teacher

LEAST_TRAIN_ROWS = 2  # BatchNorm has no variance of a single image


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Setup:
    """A checked combination of config, teacher and dreams, on the device.

    Attributes:
        config: Resolved for the images.
        device: Of the config.
        teacher: On that device.
        origin: What the student starts as a copy of: the teacher, or with ``config.student``
            another network for the same images and classes. On that device, too.
        dreams: The set.
        split: Its rows for training and for measuring.
        feed: Batches of the training rows, and of the unlabeled images where there are some.
        group: The processes that teach the student together.
        warnings: One sentence each, on what is odd but possible.
        channels_left: Which of the teacher's channels the origin still has, where it lacks some:
            a :meth:`recover.slim.Slimming.state`.
        unlabeled: Real images to learn from, too; None without.
    """

    config: RecoverConfig
    device: torch.device
    teacher: Teacher
    origin: Teacher
    dreams: DreamSet
    split: Split
    feed: Feed | MixedFeed
    group: Group
    warnings: tuple[str, ...]
    channels_left: Mapping[str, Any] | None = None
    unlabeled: Unlabeled | None = None

    @property
    def num_rows_per_batch(self) -> int:
        """How many images a batch has: fewer than asked for where there are too few dreams."""
        return self.feed.batch_size

    @property
    def num_unlabeled_per_batch(self) -> int:
        """How many of them are real."""
        return self.feed.num_others if isinstance(self.feed, MixedFeed) else 0


def prepare(
    config: RecoverConfig,
    teacher: Teacher,
    dreams: DreamSet,
    *,
    allow_teacher_mismatch: bool = False,
    group: Group = ALONE,
) -> Setup:
    """Return the setup of a run; the teacher moves to the config's device.

    Raises:
        CheckpointError: If the weights that another student starts from cannot be used.
        ConfigError: If the device is not there, or layers to keep are not, or are too large for
            the sparsity; or if there is no such architecture for the student; or if a batch has
            fewer dreams than the group has processes.
        IncompatibleError: If the dreams are not this teacher's, have another shape or other
            classes, or are too few; or if the student cannot stand in for the teacher.
    """
    if config.standardize_logits and teacher.spec.answers == SIGMOID:
        raise ConfigError(
            "--standardize-logits: found a teacher that answers with sigmoids, whose logits mean "
            "something each by itself, expected a softmax"
        )
    warnings = _compare(teacher.spec, dreams.manifest.teacher, allow_teacher_mismatch)
    device = resolve_device(config.device)
    config = resolved(config, teacher)
    origin, remarks = origin_of_student(config, teacher)
    _refuse_unprunable(origin)
    whole_layers(origin.network, config)
    split = split_rows(dreams.labels, config.holdout, config.seed)
    warnings += never_pruned(unprunable_layers(origin.network))
    unlabeled = unlabeled_of(config, teacher.spec)
    num_others = num_unlabeled_per_batch(config)
    num_dreams = config.batch_size - num_others
    warnings += _count(dreams, split, config, num_dreams, teacher.spec.num_classes)
    feed: Feed | MixedFeed
    feed = of_dreams = Feed(dreams, split.train, num_dreams, device, config.seed)
    if unlabeled is not None:
        # Where dreams are too few for their part of a batch, the others keep their share of less.
        num_others = max(round(num_others * of_dreams.batch_size / num_dreams), 1)
        feed = MixedFeed(of_dreams, unlabeled, num_others, device, config.seed)
    _refuse_empty_parts(feed.batch_size, group)
    return Setup(
        config=config,
        device=device,
        teacher=teacher.to(device),
        origin=origin.to(device),
        dreams=dreams,
        split=split,
        feed=feed,
        group=group,
        warnings=(*teacher.spec.assumptions, *warnings, *remarks),
        unlabeled=unlabeled,
    )


def resolved(config: RecoverConfig, teacher: Teacher) -> RecoverConfig:
    """Return the config with every choice made that depends on the teacher.

    Raises:
        ConfigError: If there is no such pattern, or a sparsity beside it; or as
            :func:`recover.allocation.whole_layers`.
        IncompatibleError: If no layer can have the pattern.
    """
    config = config.resolve(teacher.spec.image_shape)
    if config.pattern is None:
        return config
    whole = whole_layers(teacher.network, config)
    sparsity = pattern_sparsity(teacher.network, config.pattern, whole)
    if config.sparsity not in (0.0, sparsity):
        raise ConfigError(
            f"--pattern {config.pattern}: found --sparsity {config.sparsity:g}, expected one of "
            "the two"
        )
    return dataclasses.replace(config, sparsity=sparsity)


def run_arguments(setup: Setup, eval_data: EvalData | None) -> dict[str, Any]:
    """Return what decides the result of a run, by the names that users know."""
    return named_arguments(
        setup.config.identity(),
        setup.teacher.spec.fingerprint,
        setup.dreams.manifest.digest(),
        eval_data and len(eval_data.images),
        (
            eval_data and eval_data.digest,
            start_of(setup.config, setup.origin),
            setup.unlabeled and setup.unlabeled.digest,
        ),
    )


def start_of(config: RecoverConfig, origin: Teacher) -> str | None:
    """Return the fingerprint of what ``--student-weights`` holds, None without."""
    return None if config.student_weights is None else origin.spec.fingerprint


def named_arguments(
    identity: Mapping[str, Any],
    teacher: object,
    dreams: object,
    num_eval_images: object,
    contents: Sequence[object] = (),
) -> dict[str, Any]:
    """Return the same from its parts.

    Args:
        identity: Of a config.
        teacher: Its fingerprint.
        dreams: Their digest.
        num_eval_images: A count.
        contents: The digests that :data:`recover.folder.CONTENTS` names; None where not known.
    """
    config = {"--" + name.replace("_", "-"): value for name, value in identity.items()}
    known = {
        name: str(digest)[:16]
        for name, digest in zip(CONTENTS, contents, strict=False)
        if digest is not None
    }
    return {
        **config,
        "teacher": teacher,
        "dreams": dreams,
        "images of --eval-data": num_eval_images,
        **known,
    }


def inputs_of(setup: Setup) -> tuple[str | None, ...]:
    """Return the files that a run reads its networks from."""
    return setup.teacher.spec.path, setup.config.student_weights


def _compare(teacher: TeacherSpec, recorded: TeacherSpec, mismatch_is_fine: bool) -> list[str]:  # noqa: FBT001
    if recorded.answers != teacher.answers:
        raise IncompatibleError(
            f"dream set: made of a {recorded.answers}, the teacher's answers are taken for a "
            f"{teacher.answers}; leave --answers out, or make dreams with it"
        )
    for name, found, expected in (
        ("images of shape", recorded.image_shape, teacher.image_shape),
        ("number of classes", recorded.num_classes, teacher.num_classes),
    ):
        if found != expected:
            raise IncompatibleError(
                f"dream set: {name} {found}, the teacher's is {expected}; "
                "use the teacher that the dreams were made from"
            )
    warnings = []
    if (teacher.mean, teacher.std) != (recorded.mean, recorded.std):
        warnings.append(
            f"the dreams were made with mean {recorded.mean} and std {recorded.std}, "
            f"this run uses {teacher.mean} and {teacher.std}"
        )
    if recorded.fingerprint == teacher.fingerprint:
        return warnings
    text = (
        f"the dreams were made from a teacher with fingerprint {recorded.fingerprint[:12]}, "
        f"this one ({teacher.path or teacher.architecture}) has {teacher.fingerprint[:12]}"
    )
    if not mismatch_is_fine:
        raise IncompatibleError(f"{text}; pass that teacher, or --allow-teacher-mismatch")
    return [*warnings, text]


def _refuse_unprunable(origin: Teacher) -> None:
    if prunable_weights(origin.network):
        return
    advice = "".join(never_pruned(unprunable_layers(origin.network)))
    raise IncompatibleError(
        f"{origin.spec.architecture}: no convolution or linear layer to prune, expected one whose "
        f"weight is a parameter{f' ({advice})' if advice else ''}"
    )


def _refuse_empty_parts(num_rows_per_batch: int, group: Group) -> None:
    if num_rows_per_batch < group.count:
        raise ConfigError(
            f"--batch-size: found {num_rows_per_batch} dreams in a batch for {group.count} "
            "processes, expected at least one each; start fewer processes"
        )


def _count(
    dreams: DreamSet, split: Split, config: RecoverConfig, num_dreams: int, num_classes: int
) -> list[str]:
    num_train = len(split.train)
    if num_train < LEAST_TRAIN_ROWS:
        raise IncompatibleError(
            f"dream set: {num_train} dreams are left to train on, "
            f"expected at least {LEAST_TRAIN_ROWS}; make more with dreamforge synth"
        )
    warnings = few_held_out(len(split.held_out), dreams.num_images, config.holdout)
    if config.steps and num_train < num_dreams:
        of = "" if num_dreams == config.batch_size else f"the {num_dreams} dreams in a batch of "
        warnings.append(
            f"{num_train} dreams to train on are fewer than {of}--batch-size {config.batch_size}: "
            "every batch has the whole set"
        )
    missing = num_classes - len(dreams.labels[split.train].unique())
    if missing > 0:
        warnings.append(f"{missing} of {num_classes} classes have no dream to train on")
    return warnings
