"""Weights in files: read without running their code, written as safetensors.

What a file is, its first bytes say and not its name. The one module that unpickles, and only
with ``weights_only=True``.
"""

import argparse
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from shared.errors import CheckpointError, DreamforgeError
from shared.files import atomic_path
from shared.model_folder import facts_beside, weights_in
from shared.statedict import problem_of, unnest, with_plain_names
from shared.unreadable import describe_foreign, one_line, refuse_foreign_zip, why_not_unpickled

METADATA_KEY = "dreamforge"
_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A state dict and what its file says of it.

    Attributes:
        tensors: On the CPU, any dtype, names without wrappers' prefixes.
        metadata: Plain values: the record our own files carry, or whatever scalars and strings
            stood beside the state dict.
        path: The file, or None for weights from elsewhere.
        notes: What was chosen of several things in the file, one sentence each.
        source: What they are called where there is no file.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    path: Path | None = None
    notes: tuple[str, ...] = ()
    source: str = "embedded weights"


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the weights in a ``.pt``, ``.pth``, ``.th``, ``.bin`` or ``.safetensors`` file.

    Args:
        path: The file, or a model folder as the Hugging Face hub has them, which also says what
            the weights are (:mod:`shared.model_folder`).

    Raises:
        CheckpointError: If there is no such file, or it is something else, damaged, a pickle
            that needs code, without tensors, or with NaN or infinity in its weights.
    """
    path = weights_in(path) if path.is_dir() else path
    head = _read_head(path)
    if _looks_like_safetensors(head, path.stat().st_size):
        with path.open("rb") as stream:
            metadata = _safetensors_metadata(stream.read(8), stream.read, str(path))
        tensors = _guard_safetensors(lambda: _load_safetensors(path), str(path))
        notes: tuple[str, ...] = ()
    elif head.startswith(_ZIP_MAGIC):
        refuse_foreign_zip(path)
        tensors, metadata, notes = unnest(_unpickle(path, mmap=_is_text(path)), str(path))
    elif head.startswith(b"\x80"):
        tensors, metadata, notes = unnest(_unpickle(path, mmap=False), str(path))
    else:
        raise CheckpointError(f"{path}: {describe_foreign(head)}")
    beside, passed_over = facts_beside(path)
    checked = _checked(tensors, beside | metadata, path, str(path))
    return replace(checked, notes=(*notes, *passed_over))


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    if not _is_text(path):
        return safetensors.torch.load(path.read_bytes())
    return safetensors.torch.load_file(path)


def _is_text(path: Path) -> bool:
    """Whether a path is UTF-8: neither library maps files of other names."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def checkpoint_from_bytes(blob: bytes, origin: str) -> Checkpoint:
    """Return the weights in safetensors bytes; ``origin`` names them in errors.

    Raises:
        CheckpointError: If the bytes are no safetensors, damaged, or hold NaN or infinity.
    """
    if not _looks_like_safetensors(blob[:16], len(blob)):
        raise CheckpointError(f"{origin}: {describe_foreign(blob[:64])}")
    metadata = _safetensors_metadata(blob[:8], lambda size: blob[8 : 8 + size], origin)
    tensors = _guard_safetensors(lambda: safetensors.torch.load(blob), origin)
    return _checked(tensors, metadata, None, origin)


def checkpoint_of(network: nn.Module, metadata: Mapping[str, Any], source: str) -> Checkpoint:
    """Return the weights of a network at hand, on the CPU; ``source`` names it in errors.

    Raises:
        CheckpointError: If it has none, NaN or infinity among them, or packed ones, as quantised
            layers have.
    """
    state = network.state_dict()
    packed = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if packed:
        raise CheckpointError(
            f"{source}: {packed[0][:80]!r} is no tensor, as in quantised networks; expected the "
            "network before that"
        )
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
    return replace(_checked(tensors, dict(metadata), None, source), source=source)


def to_safetensors(network: nn.Module, metadata: Mapping[str, Any]) -> bytes:
    """Return state dict and JSON metadata as safetensors bytes, equal for equal arguments."""
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()  # tied tensors may not share memory
        for name, tensor in network.state_dict().items()
    }
    record = json.dumps(dict(metadata), allow_nan=False, sort_keys=True)
    # One key only: the library writes several in an order that changes from run to run.
    return safetensors.torch.save(tensors, metadata={METADATA_KEY: record})


def save_network(path: Path, network: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write :func:`to_safetensors` to ``path``, atomically.

    Raises:
        DreamforgeError: If it cannot be written: disk full, no permission.
    """
    _write(path, to_safetensors(network, metadata))


def save_state(path: Path, value: Any) -> None:
    """Write containers of tensors, numbers and strings to ``path``, atomically.

    Raises:
        DreamforgeError: If it cannot be written: disk full, no permission.
    """
    # By way of memory: where the disk is full, torch.save's own writer breaks in a way of its own.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    _write(path, buffer.getbuffer())


def _write(path: Path, data: bytes | memoryview) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise DreamforgeError(
            f"{path}: cannot be written ({error.strerror or error}), {len(data) / 2**20:,.1f} MiB; "
            "make room, and the same command goes on from what is saved (without --overwrite, "
            "which begins anew)"
        ) from error


def load_state(path: Path) -> Any:
    """Return what :func:`save_state` wrote, tensors on the CPU.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds anything but plain values.
    """
    if not _read_head(path).startswith(_ZIP_MAGIC):
        raise CheckpointError(f"{path}: not a training state; remove it to start afresh")
    _require_checksums(path)
    return _unpickle(path, mmap=False)


def _require_checksums(path: Path) -> None:
    # torch.save writes them, and torch.load does not look: a flipped bit would be a weight.
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # a damaged archive can raise anything
        raise CheckpointError(f"{path}: damaged: {one_line(error)}") from error
    if broken is not None:
        raise CheckpointError(f"{path}: damaged: its checksum of {broken[-60:]!r} is of other data")


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except IsADirectoryError:
        raise CheckpointError(f"{path}: a folder, expected a file of weights") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path}: empty file, expected weights")
    return head


def _unpickle(path: Path, *, mmap: bool) -> Any:
    try:
        # A Namespace of arguments is in every checkpoint of torchvision's training scripts; it
        # is a bag of attributes and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols; what fails is said below
            if path.suffix != ".safetensors":
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            with path.open("rb") as stream:  # given this name, torch would not unpickle
                return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can raise anything
        raise CheckpointError(f"{path}: {why_not_unpickled(path, error)}") from error


def _looks_like_safetensors(head: bytes, num_bytes: int) -> bool:
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (size,) = struct.unpack("<Q", head[:8])
    return bool(size <= _MAX_HEADER_BYTES and 8 + size <= num_bytes)


def _safetensors_metadata(size: bytes, read: Any, origin: str) -> dict[str, Any]:
    """Return the JSON record under our key, or the header's own strings."""
    try:
        header = json.loads(read(struct.unpack("<Q", size)[0]))
        strings = header.get("__metadata__") or {}
        record = json.loads(strings.get(METADATA_KEY, "{}"))
        return {k: v for k, v in strings.items() if k != METADATA_KEY} | record
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{origin}: damaged safetensors header: {one_line(error)}") from error


def _guard_safetensors(load: Any, origin: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load()
    except Exception as error:  # also PanicException's ValueErrors, KeyErrors
        raise CheckpointError(f"{origin}: damaged safetensors: {one_line(error)}") from error
    return tensors


def _checked(
    tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path | None, origin: str
) -> Checkpoint:
    if not tensors:
        raise CheckpointError(f"{origin}: no tensors in it, expected a state dict")
    for name, tensor in tensors.items():
        problem = problem_of(tensor)
        if problem:
            raise CheckpointError(f"{origin}: tensor {name[:80]!r} {problem}")
    plain = with_plain_names({name: tensor.detach() for name, tensor in tensors.items()})
    return Checkpoint(tensors=plain, metadata=metadata, path=path)
