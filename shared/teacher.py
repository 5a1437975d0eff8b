"""The frozen classifier that is inverted and imitated, with all one must know to use it.

``Teacher`` owns the preprocessing: everybody else hands it images or pixels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from shared.architectures import (
    Candidate,
    Match,
    build_skeleton,
    comparable,
    find_candidate,
    identify,
    match_candidate,
    require_batch_norm,
    set_input_channels,
)
from shared.checkpoint import Checkpoint, load_checkpoint
from shared.errors import CheckpointError, ConfigError
from shared.facts import Facts
from shared.metrics import channel_statistics, predict
from shared.odd_layers import refuse_odd_layers, replace_odd_norms
from shared.spec import TeacherSpec
from shared.statedict import strip_prefixes

_MAX_CHECKED_PIXELS = 2**20


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
        CheckpointError: If the file is no usable checkpoint of a classifier with BatchNorm.
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
    spec: TeacherSpec | None = None,
    needs_batch_norm: bool = True,
) -> Teacher:
    """Return the teacher whose weights the checkpoint holds, on the CPU.

    A fact comes from the argument, else from the checkpoint's metadata, else from ``spec``, else
    it is assumed, which the teacher's spec then says.

    Args:
        checkpoint: Weights and metadata.
        architecture: Catalog name, ``timm:NAME`` or ``package.module:factory``.
        image_size: Pixels: one number for squares, or ``(H, W)``.
        mean: One per channel, or one for all, for pixels in [0, 1].
        std: Likewise.
        class_names: One per class, in the order of the logits.
        spec: What a dream set recorded of its teacher. Its fingerprint is not compared here.
        needs_batch_norm: Refuse a network without: it cannot be inverted.

    Raises:
        CheckpointError: If the weights fit no architecture, or not the named one.
        ConfigError: If an argument is wrong.
    """
    origin = str(checkpoint.path or "embedded weights")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    arguments = {
        "architecture": architecture,
        "image_size": size,
        "mean": mean,
        "std": std,
        "class_names": class_names,
    }
    facts = Facts(arguments, checkpoint.metadata, spec)
    try:
        if needs_batch_norm:
            require_batch_norm(checkpoint.tensors)
        candidate, match = _match(checkpoint, facts)
        network, replaced = _build(candidate, match, checkpoint.tensors)
        refuse_odd_layers(network)
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    shape = (match.in_channels, *facts.image_size(candidate))
    _check_forward(network, shape, match)
    mean, std = facts.normalization(candidate, match.in_channels)
    chosen = TeacherSpec(
        architecture=match.architecture,
        num_classes=match.num_classes,
        image_shape=shape,
        mean=mean,
        std=std,
        class_names=facts.class_names(match.num_classes),
        fingerprint=fingerprint(network),
        path=str(checkpoint.path.resolve()) if checkpoint.path else None,
        assumptions=(
            *_converted(checkpoint.tensors),
            *replaced,
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


def _match(checkpoint: Checkpoint, facts: Facts) -> tuple[Candidate, Match]:
    name = facts.architecture()
    if name is None:
        size = facts.find("image_size")
        match = identify(checkpoint.tensors, facts.hint(checkpoint.path), size)
        return find_candidate(match.architecture), match
    candidate = find_candidate(name)
    return candidate, match_candidate(candidate, checkpoint.tensors)


def _build(
    candidate: Candidate, match: Match, tensors: Mapping[str, Tensor]
) -> tuple[nn.Module, list[str]]:
    """Build the network around copies of the tensors, without initialising it first."""
    replaced: list[str] = []

    def build() -> nn.Module:
        network = candidate.build(match.num_classes)
        set_input_channels(network, match.in_channels)
        replaced.extend(replace_odd_norms(network))
        return network

    network = build_skeleton(build)
    expected = network.state_dict()
    # A network of one's own may have a prefix that the checkpoint's names were freed of.
    plain = dict(zip(strip_prefixes(list(expected)), expected, strict=True))
    weights = {
        plain[name]: tensor.to(expected[plain[name]].dtype, copy=True).contiguous()
        for name, tensor in tensors.items()
        if name in plain
    }
    counters = {
        name: torch.zeros((), dtype=torch.int64) for name in expected if name not in weights
    }
    network.load_state_dict(weights | counters, strict=True, assign=True)
    return network, replaced


def _check_forward(network: nn.Module, shape: tuple[int, int, int], match: Match) -> None:
    """Send one image through the network: does the size fit, are logits what comes out?"""
    # Without memory where images are huge, whatever a file says of its image size; not always,
    # because PyTorch then loads a second and a half of Python first.
    device = "cpu" if shape[1] * shape[2] <= _MAX_CHECKED_PIXELS else "meta"
    tensors = {name: tensor.to(device) for name, tensor in network.state_dict().items()}
    image = torch.zeros(1, *shape, device=device)
    try:
        with torch.no_grad():
            logits = functional_call(network.eval(), tensors, (image,))
    except Exception as error:  # whatever somebody's forward may raise
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{match.architecture} does not take images of {shape[1]}x{shape[2]} with {shape[0]} "
            f"channels ({reason}); set --image-size"
        ) from error
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (1, match.num_classes):
        raise ConfigError(
            f"{match.architecture} answers one image with {found}, expected one tensor of logits, "
            f"(1, {match.num_classes}); of several heads, let a factory (--arch package.module:"
            "factory) return the one to invert"
        )


def _converted(tensors: Mapping[str, Tensor]) -> list[str]:
    """Say so where weights are not float32 in the file."""
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    others = sorted(str(dtype).removeprefix("torch.") for dtype in floats - {torch.float32})
    return [f"weights stored as {', '.join(others)} were converted to float32"] if others else []
