"""Why a file is no checkpoint, and how its owner makes one of it."""

import io
import pickle
import pickletools
import re
import zipfile
from contextlib import suppress
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
_DICTS = frozenset({"builtins dict", "collections OrderedDict", "collections defaultdict"})
_PASSED_OVER = frozenset({"PROTO", "FRAME", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"})
_NO_KEY = "\0"
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
    return f"holds more than tensors{reason}; {_how_to_extract(path) or _HOW_TO_CONVERT}"


def _how_to_extract(path: Path) -> str:
    """Say how to take the weights out of a dict that also holds something else; "" of no dict."""
    kinds, has_tensors = _outline(path)
    if kinds.pop("", "") != "dict":
        return ""
    named = sorted((nest for nest in NESTS if nest in kinds), key=lambda nest: kinds[nest])
    weights = "torch.load(PATH, weights_only=False)" + (f"[{named[0]!r}]" if named else "")
    if named and kinds[named[0]] == "object":
        weights += ".state_dict()"
    elif not has_tensors:
        weights = f"{{k: torch.as_tensor(v) for k, v in {weights}.items()}}"
    elif not named:
        weights = f"{{k: v for k, v in {weights}.items() if isinstance(v, torch.Tensor)}}"
    return f"where you trust it, take the weights out: torch.save({weights}, NEW)"


def _outline(path: Path) -> tuple[dict[str, str], bool]:
    """Return what a pickle holds, without running it: ``dict`` or ``object``, and has it tensors?

    Under "" what it is itself, under the keys in ``NESTS`` what is behind them.
    """
    kinds: dict[str, str] = {}
    has_tensors = False
    key, texts = "", [""]
    with suppress(Exception):  # whatever a damaged one may raise: it only helps the message
        for code, argument, _ in pickletools.genops(_pickled_bytes(path)):
            name = code.name
            if name in _PASSED_OVER:
                continue
            if name == "STACK_GLOBAL":  # since protocol 4: of the two texts before it
                argument = " ".join(texts[-2:])
            has_tensors |= "_rebuild_tensor" in str(argument)[:80]
            if "UNICODE" in name:
                texts = [*texts[-1:], str(argument)]
                if key == "" and "" not in kinds:
                    continue  # a module's name, before the class in it
                key = str(argument) if argument in NESTS else _NO_KEY
            elif key != _NO_KEY:
                is_dict = name in ("EMPTY_DICT", "DICT") or str(argument) in _DICTS
                if is_dict or "GLOBAL" in name:
                    kinds.setdefault(key, "dict" if is_dict else "object")
                key = _NO_KEY
    return kinds, has_tensors


def _pickled_bytes(path: Path) -> io.BytesIO:
    """Return the pickle of names in a file of ``torch.save``, from where its object begins."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return io.BytesIO(archive.open(name).read(_SEARCHED_BYTES))
    with path.open("rb") as stream:
        data = io.BytesIO(stream.read(_SEARCHED_BYTES))
    if (
        next(code.name for code, _, _ in pickletools.genops(data) if code.name != "PROTO")
        == "LONG1"
    ):
        data.seek(0)
        for _ in range(3):  # PyTorch's magic number, its protocol and the machine come first
            list(pickletools.genops(data))
    else:
        data.seek(0)
    return data


def _refused_globals(path: Path) -> list[str]:
    """Return the names a zip file wants imported; torch lists them for no other format."""
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  it only helps the message
        return []
    names = sorted(name[:80] for name in wanted if name.isprintable())
    return names[:5] + ([f"{len(names) - 5} more"] if len(names) > 5 else [])
