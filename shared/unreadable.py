"""Why a file is no checkpoint, and how its owner makes one of it."""

import pickle
import re
import struct
import zipfile
from pathlib import Path

import torch

from shared.errors import CheckpointError
from shared.statedict import NESTS

_FOREIGN = {  # first bytes -> what the file is instead
    b"version https://git-lfs": "a git-lfs pointer, not the weights (git lfs pull fetches them)",
    b"\x89HDF": "an HDF5 file, perhaps a dream set",
    b"\x1f\x8b": "gzip-compressed (unpack it first)",
    b"BZh": "bzip2-compressed (unpack it first)",
    b"\xfd7zXZ": "xz-compressed (unpack it first)",
    b"\x93NUMPY": "a NumPy array",
    b"<": "an HTML or XML page, perhaps a failed download",
    b"\x08": "an ONNX model, perhaps",
}
_HOW_TO_CONVERT = (
    "where you trust it, load it with weights_only=False and torch.save(model.state_dict(), ...)"
)
# Of what training scripts keep beside the weights: figures, paths, dates.
_PLAIN_PACKAGES = frozenset(
    {"numpy", "pathlib", "datetime", "collections", "decimal", "uuid", "_codecs"}
)
_PLAIN_NAMES = frozenset({"builtins.dict", "builtins.list", "builtins.set", "builtins.int"})
_SEARCHED_BYTES = 16 * 2**20  # where a pickle of names lies, before the tensors


def one_line(error: BaseException) -> str:
    """Return the beginning of an error's text on one line."""
    return " ".join(str(error).split())[:200]


def describe_foreign(head: bytes) -> str:
    """Return what a file is that begins with ``head``, and what was expected."""
    expected = "expected a PyTorch state dict or safetensors"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            return f"{what}; {expected}"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"a text file starting with {head[:24].decode()!r}; {expected}"
    return f"unknown format (first bytes {head[:8].hex(' ')}) or damaged; {expected}"


def refuse_foreign_zip(path: Path) -> None:
    """Raise CheckpointError if a zip archive's list shows that it is none of torch.save's."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged ({one_line(error)}); copy or download it again"
        ) from error
    parts = {member.filename.partition("/")[2] for member in members}
    if "models/model.json" in parts or any(
        member.filename == "serialized_exported_program.json"  # before PyTorch 2.8
        for member in members
    ):
        raise CheckpointError(
            f"{path}: a torch.export archive (.pt2), which holds a program; expected a state dict: "
            "where you trust it, torch.save(torch.export.load(PATH).state_dict, NEW)"
        )
    if "data.pkl" not in parts:
        raise CheckpointError(f"{path}: a zip archive without data.pkl, expected torch.save's")
    if any(part.startswith("code/") for part in parts):
        raise CheckpointError(
            f"{path}: a TorchScript archive, which holds code; expected a state dict: where you "
            "trust it, torch.save(torch.jit.load(path).state_dict(), ...)"
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"{path}: a compressed zip archive; torch.save writes none: unpack it"
        )


def why_not_unpickled(path: Path, error: Exception) -> str:
    """Return why ``torch.load(weights_only=True)`` raised ``error``, and what to do."""
    if not isinstance(error, pickle.UnpicklingError) or "eights" not in str(error):
        return f"truncated or damaged ({type(error).__name__}: {one_line(error)})"
    wanted = _refused_globals(path) or re.findall(r"GLOBAL ([\w.]{1,80})", str(error))[:1]
    reason = f": it wants {', '.join(wanted)}, and importing that could run code" if wanted else ""
    # A network is of none of these packages, so it is a dict that has it and something else.
    is_dict = wanted and all(
        name in _PLAIN_NAMES or name.partition(".")[0] in _PLAIN_PACKAGES for name in wanted
    )
    return (
        f"holds more than tensors{reason}; {_how_to_extract(path) if is_dict else _HOW_TO_CONVERT}"
    )


def _how_to_extract(path: Path) -> str:
    """Say how to take the weights out of a dict that also holds something else."""
    with path.open("rb") as stream:
        head = stream.read(_SEARCHED_BYTES)
    nest = next((nest for nest in NESTS if _pickled(nest, head)), None)
    loaded = "torch.load(PATH, weights_only=False)"
    weights = (
        f"{loaded}[{nest!r}]"
        if nest
        else f"{{k: v for k, v in {loaded}.items() if isinstance(v, torch.Tensor)}}"
    )
    return f"where you trust it, take the weights out: torch.save({weights}, NEW)"


def _pickled(text: str, data: bytes) -> bool:
    """Tell whether a pickle has a text as one of its values, without running it."""
    size, encoded = len(text), text.encode()
    return b"X" + struct.pack("<I", size) + encoded in data or (
        b"\x8c" + struct.pack("B", size) + encoded in data  # since protocol 4
    )


def _refused_globals(path: Path) -> list[str]:
    """Return the names a zip file wants imported; torch lists them for no other format."""
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  it only helps the message
        return []
    names = sorted(name[:80] for name in wanted if name.isprintable())
    return names[:5] + ([f"{len(names) - 5} more"] if len(names) > 5 else [])
