"""Another architecture as the student: knowledge transfer, Yin et al. 2020 (arXiv:1912.08795), 4.4.

A student that is no copy of the teacher starts from random weights or from a checkpoint. It sees
the teacher's images through the teacher's preprocessing, and answers with the teacher's classes.
"""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from recover.config import RecoverConfig
from shared.answers import settle_answers
from shared.architectures import (
    NoFitError,
    build_network,
    find_candidate,
    match_candidate,
    match_resized,
)
from shared.checkpoint import Checkpoint, load_checkpoint
from shared.errors import CheckpointError, IncompatibleError
from shared.layout import spare_images
from shared.seeding import derive_seed
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint, teacher_from_checkpoint
from shared.trial import refuse_without_gradient


def origin_of_student(config: RecoverConfig, teacher: Teacher) -> tuple[Teacher, tuple[str, ...]]:
    """Return the classifier that the student starts as a copy of, and remarks on it.

    That is the teacher, unless the config names another architecture: then a network of that one,
    on the CPU, with the teacher's classes and preprocessing.

    Raises:
        CheckpointError: If ``config.student_weights`` are no weights of ``config.student``.
        ConfigError: If there is no such architecture.
        IncompatibleError: If the student cannot take the teacher's images, or answers for another
            number of classes.
    """
    if config.student is None:
        return teacher, ()
    spec = teacher.spec
    remarks: tuple[str, ...] = ()
    if config.student_weights is None:
        network = random_network(config.student, spec, config.seed)
    else:
        checkpoint = load_checkpoint(Path(config.student_weights))
        network = network_of(checkpoint, config.student, spec)
        remarks = _other_preprocessing(checkpoint, spec)
    require_fitting(network, config.student, spec)
    own = dataclasses.replace(
        spec,
        architecture=config.student,
        fingerprint=fingerprint(network),
        path=config.student_weights,
        assumptions=(),
    )
    return Teacher(network=network, spec=own), remarks


def random_network(architecture: str, spec: TeacherSpec, seed: int) -> nn.Module:
    """Return a network for the classes and channels of ``spec``, initialised as its authors do.

    The same seed gives the same weights. PyTorch's initialisers draw from the global CPU stream:
    it is seeded by name for as long as they do, and as before afterwards.
    """
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(derive_seed(seed, "student", architecture))
        network = build_network(
            architecture, num_classes=spec.num_logits, in_channels=spec.image_shape[0]
        )
    settle_answers(network, spec.answers)
    return network


def network_of(checkpoint: Checkpoint, architecture: str, spec: TeacherSpec) -> nn.Module:
    """Return the network of the architecture whose weights the checkpoint holds.

    Raises:
        CheckpointError: If they do not fit it.
        IncompatibleError: If they are for other classes or channels than those of ``spec``.
    """
    candidate = find_candidate(architecture)
    try:
        try:
            match = match_candidate(candidate, checkpoint.tensors)
        except NoFitError:
            match = match_resized(candidate, checkpoint.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"--student-weights {checkpoint.path}: {error}") from error
    found = (match.num_classes, match.in_channels)
    expected = (spec.num_logits, spec.image_shape[0])
    if found != expected:
        raise IncompatibleError(
            f"--student-weights {checkpoint.path}: {found[0]} classes and {found[1]} channels, "
            f"the teacher has {expected[0]} and {expected[1]}; start from other weights, or from "
            "random ones without --student-weights"
        )
    return teacher_from_checkpoint(
        checkpoint,
        architecture=architecture,
        image_size=(spec.image_shape[1], spec.image_shape[2]),
        mean=spec.mean,
        std=spec.std,
        answers=spec.answers,
    ).network


def require_fitting(network: nn.Module, architecture: str, spec: TeacherSpec) -> None:
    """Send images through: does the size fit, are logits of the right classes what comes out?

    A network that changes its images is told so (:func:`shared.layout.spare_images`).

    Raises:
        IncompatibleError: If not.
        ConfigError: If the logits have no gradient.
    """
    size = "x".join(map(str, spec.image_shape))
    try:
        images = torch.zeros(2, *spec.image_shape).requires_grad_() * 1  # may be written into
        logits = network.eval()(images)
    except Exception as error:  # whatever somebody's forward may raise
        reason = " ".join(str(error).split())[:120]
        raise IncompatibleError(
            f"--student {architecture}: does not take the dreams' images of {size} ({reason}); "
            "choose an architecture made for such images"
        ) from error
    if images._version > 0:
        spare_images(network)
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (2, spec.num_classes):
        raise IncompatibleError(
            f"--student {architecture}: answers two images with {found}, expected logits of shape "
            f"(2, {spec.num_classes}): the teacher has {spec.num_classes} classes"
        )
    refuse_without_gradient(f"--student {architecture}:", logits)


def _other_preprocessing(checkpoint: Checkpoint, spec: TeacherSpec) -> tuple[str, ...]:
    """Say so where the weights are used to other inputs than they will get."""
    changed = [
        name
        for name in ("mean", "std")
        if checkpoint.metadata.get(name) not in (None, list(getattr(spec, name)))
    ]
    if not changed:
        return ()
    return (
        f"--student-weights {checkpoint.path}: recorded with another {' and '.join(changed)}; the "
        "student learns and is saved with the teacher's",
    )
