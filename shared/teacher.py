"""The frozen classifier that is inverted and imitated, with all one must know to use it.

``Teacher`` owns the preprocessing: everybody else hands it images or pixels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.answers import settle_answers
from shared.architectures import comparable, require_batch_norm
from shared.checkpoint import Checkpoint, load_checkpoint
from shared.errors import CheckpointError, ConfigError
from shared.facts import Facts
from shared.fitting import build_around, find_architecture, told_apart
from shared.input_scale import Convention, better_convention, remembered_inputs
from shared.metrics import channel_statistics, predict
from shared.misfit import convention_that_fits
from shared.odd_layers import refuse_odd_layers, require_norm_layers
from shared.spec import SIGMOID, TeacherSpec
from shared.trial import last_step, sides_instead, try_logits

_FEW_BATCHES = 5  # by PyTorch's momentum most of what was there before is left after fewer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """A classifier in evaluation mode, without gradients, and its spec.

    Attributes:
        network: Takes normalised inputs.
        spec: Preprocessing, classes and identity.
    """

    network: nn.Module
    spec: TeacherSpec
    _mean: Tensor = field(init=False, repr=False)
    _std: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        mean, std = channel_statistics(self.spec, self.device)
        object.__setattr__(self, "_mean", mean)
        object.__setattr__(self, "_std", std)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return inputs of float pixels ``(N, C, H, W)`` in [0, 1]: ``(pixels - mean) / std``."""
        return (pixels - self._mean.to(pixels.device)) / self._std.to(pixels.device)

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Return the pixels of normalised inputs ``(N, C, H, W)``; not clamped to [0, 1]."""
        return inputs * self._std.to(inputs.device) + self._mean.to(inputs.device)

    def to(self, device: torch.device) -> "Teacher":
        """Return the teacher on ``device``. As in PyTorch, the network itself moves."""
        return Teacher(network=self.network.to(device), spec=self.spec)

    def logits(self, images: Tensor, batch_size: int | None = None) -> Tensor:
        """Return the answer to uint8 images ``(N, C, H, W)``, in full float32.

        Returns:
            float32 ``(N, K)`` on the device of ``images``.
        """
        return predict(self.network, images, self.spec, self.device, batch_size)


def load_teacher(path: Path | str, **options: Any) -> Teacher:
    """Return the teacher in a file, on the CPU.

    Args:
        path: A checkpoint, see :func:`shared.checkpoint.load_checkpoint`.
        **options: Those of :func:`teacher_from_checkpoint`.

    Raises:
        CheckpointError: If the file is no usable checkpoint of a classifier.
        ConfigError: If an option is wrong or does not fit the weights.
    """
    return teacher_from_checkpoint(load_checkpoint(Path(path)), **options)


def teacher_from_checkpoint(
    checkpoint: Checkpoint,
    *,
    architecture: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    answers: str | None = None,
    spec: TeacherSpec | None = None,
    needs_batch_norm: bool = False,
    suggests: bool = True,
) -> Teacher:
    """Return the teacher whose weights the checkpoint holds, on the CPU.

    A fact comes from the argument, else from the checkpoint's metadata, else from ``spec``, else
    it is assumed, which the teacher's spec then says. Where the weights are those that ``spec`` is
    of, it comes before the metadata: the dreams were made so, whatever is usual.

    Args:
        checkpoint: Weights and metadata.
        architecture: Catalog name, ``timm:NAME`` or ``package.module:factory``.
        image_size: Pixels: one number for squares, or ``(H, W)``.
        mean: One per channel, or one for all, for pixels in [0, 1].
        std: Likewise.
        class_names: One per class, in the order of the logits; of sigmoids the findings' are
            enough.
        answers: ``softmax`` over classes, or a ``sigmoid`` for each finding, which puts a class
            "none" before them (see :mod:`shared.answers`).
        spec: What a dream set recorded of its teacher. Its fingerprint is not compared here.
        needs_batch_norm: Refuse a network without: it cannot be inverted.
        suggests: As for :func:`shared.fitting.find_architecture`.

    Raises:
        CheckpointError: If the weights fit no architecture, or not the named one; or if there is no
            BatchNorm, and it is needed.
        ConfigError: If an argument is wrong.
        IncompatibleError: If they do not fit the architecture that ``spec`` alone names.
    """
    origin = str(checkpoint.path or checkpoint.source)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    arguments = {
        "architecture": architecture,
        "image_size": size,
        "mean": mean,
        "std": std,
        "class_names": class_names,
        "answers": answers,
    }
    facts = Facts(arguments, checkpoint.metadata, spec)
    try:
        if needs_batch_norm:
            require_batch_norm(checkpoint.tensors)
        match, tensors = find_architecture(checkpoint, facts, origin, suggests=suggests)
        match = told_apart(match, tensors, facts)
        network, replaced = build_around(match, tensors)
        refuse_odd_layers(network)
        if needs_batch_norm:
            require_norm_layers(network)
    except ConfigError as error:
        if architecture is not None:
            raise
        raise CheckpointError(f"{origin}: {error}") from error  # what a file says of itself
    except CheckpointError as error:
        said = "".join(f"; {note}" for note in checkpoint.notes)
        raise CheckpointError(f"{origin}: {error}{said}") from error
    identity = fingerprint(network)
    if spec is not None and spec.fingerprint == identity:
        facts.trust_set(spec)
    instead = partial(sides_instead, network, match.in_channels)
    shape = (match.in_channels, *facts.image_size(match.candidate, instead))
    num_logits, in_rows = try_logits(network, shape, match)
    last = last_step(network, shape, match)
    meant = facts.answers(num_logits, last)
    settle_answers(network, meant, last, in_rows=in_rows)
    num_classes = num_logits + (1 if meant == SIGMOID else 0)
    mean, std = facts.normalization(
        match.candidate, match.in_channels, partial(_better_convention, network, shape)
    )
    chosen = TeacherSpec(
        architecture=match.architecture,
        num_classes=num_classes,
        image_shape=shape,
        mean=mean,
        std=std,
        class_names=facts.class_names(num_classes, meant),
        answers=meant,
        fingerprint=identity,
        path=str(checkpoint.path) if checkpoint.path else None,
        assumptions=(
            *checkpoint.notes,
            *_converted(checkpoint.tensors),  # as in the file, whatever a library made of them
            *replaced,
            *_hardly_trained(network),
            *match.assumptions,
            *facts.notes,
        ),
    )
    return Teacher(network=network, spec=chosen)


def fingerprint(network: nn.Module | Mapping[str, Tensor]) -> str:
    """Return the identity of the weights: a sha256 over sorted names, shapes and float32 values.

    BatchNorm's counters are left out, so a file that lacks them has the same fingerprint, as has
    any file format of the same weights.
    """
    tensors = network.state_dict() if isinstance(network, nn.Module) else network
    digest = hashlib.sha256()
    for name in sorted(comparable(tensors)):
        values = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Return the BatchNorm layers that remember statistics, by name, in order of definition."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def _better_convention(
    network: nn.Module, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> Convention | None:
    """Return how pixels are to be scaled, where that is not by this mean and std."""
    remembered = remembered_inputs(network, shape)
    if remembered is None:
        return convention_that_fits(network, shape, mean, std)
    return better_convention(remembered, mean, std)


def _hardly_trained(network: nn.Module) -> list[str]:
    """Say so where BatchNorm layers have seen too little to remember what images were like."""
    norms = list(batch_norms(network).values())
    counters = [getattr(norm, "num_batches_tracked", None) for norm in norms]
    most = max((int(counter) for counter in counters if counter is not None), default=0)
    if norms and not any(bool(norm.running_mean.any()) for norm in norms):  # type: ignore[operator]
        seen = "no image"
    elif 0 < most < _FEW_BATCHES:  # 0: a file without counters, or a script that dropped them
        seen = f"{most} batches of images" if most > 1 else "one batch of images"
    else:
        return []
    return [f"the network is trained, though its BatchNorm layers have seen {seen}"]


def _converted(tensors: Mapping[str, Tensor]) -> list[str]:
    """Say so where weights are not float32 in the file."""
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    others = sorted(str(dtype).removeprefix("torch.") for dtype in floats - {torch.float32})
    return [f"weights stored as {', '.join(others)} were converted to float32"] if others else []
