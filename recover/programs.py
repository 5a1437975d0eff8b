"""A student as a program: a file that runs where nothing of ours is installed.

``.pt2`` is what ``torch.export`` writes, for PyTorch and what is built on it (AOTInductor,
ExecuTorch); ``.onnx`` is for all others. Both hold the network as it computes, zeros and all: what
makes it faster is fewer channels.
"""

import copy
import importlib.util
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.answers import plain_answers
from shared.errors import ConfigError, DreamforgeError
from shared.files import atomic_path
from shared.seeding import generator
from shared.spec import TeacherSpec
from shared.teacher import Teacher

TOLERANCE = 1e-3  # of the largest logit: runtimes add in another order, and fuse
_NUM_CHECKED = 3  # images; a number that no program is made with
_NEEDS = {".onnx": ("onnx", "onnxscript")}

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What was written.

    Attributes:
        path: Of the file.
        num_bytes: Its size.
        inputs: What it takes: ``pixels in [0, 1]`` or ``normalized``.
        shape: Of its inputs; None where any number of images will do.
        difference: The largest one between its logits and the network's, on random images, over
            the largest logit; None where it could not be run here.
    """

    path: str
    num_bytes: int
    inputs: str
    shape: tuple[int | None, ...]
    difference: float | None


class FromPixels(nn.Module):
    """A network and the normalisation that it wants.

    Args:
        network: On the CPU.
        spec: Says mean and std.
    """

    pixel_mean: Tensor  # "mean" is an operator's name, which exporters give to its result, too
    pixel_std: Tensor

    def __init__(self, network: nn.Module, spec: TeacherSpec) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("pixel_mean", torch.tensor(spec.mean).reshape(1, -1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(spec.std).reshape(1, -1, 1, 1))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of float pixels ``(N, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.network((pixels - self.pixel_mean) / self.pixel_std)
        return logits


def refuse_format(path: Path) -> None:
    """Check that the suffix is one that can be written here.

    Raises:
        ConfigError: If not.
    """
    if path.suffix not in _WRITERS:
        raise ConfigError(
            f"--out {path}: found suffix {path.suffix!r}, expected {' or '.join(_WRITERS)}"
        )
    missing = [name for name in _NEEDS.get(path.suffix, ()) if not importlib.util.find_spec(name)]
    if missing:
        raise ConfigError(
            f"--out {path}: needs {' and '.join(missing)}: pip install onnx onnxscript, or "
            "--out with .pt2"
        )


def write_program(
    classifier: Teacher, path: Path, *, from_pixels: bool = False, num_images: int | None = None
) -> Program:
    """Write ``classifier`` as a program, and run it once to see that it says the same.

    Args:
        classifier: On the CPU.
        path: Ends in ``.pt2`` or ``.onnx``; replaced if it is there.
        from_pixels: It takes pixels in [0, 1] and normalises them itself.
        num_images: That it takes at once; None for any number.

    Raises:
        ConfigError: If the format is not known, or the network takes a fixed number of images.
        DreamforgeError: If it cannot be written as a program, or says something else.
    """
    refuse_format(path)
    spec, network = classifier.spec, copy.deepcopy(classifier.network)
    plain_answers(network)  # those of the checkpoint that the user knows
    if from_pixels:
        network = FromPixels(network, spec)
    shape = spec.image_shape
    draws = generator(0, "program")
    images = torch.rand(num_images or _NUM_CHECKED, *shape, generator=draws)
    example = images if num_images else images[:2]
    dynamic = None if num_images else ({0: torch.export.Dim("images", min=1)},)
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # whatever somebody's forward may raise
        raise _no_program(
            path, error, "" if num_images else "; with --batch 1 it may work"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        try:
            run = _WRITERS[path.suffix](program, temporary)
        except Exception as error:  # an operator that the format does not have, say
            raise _no_program(path, error) from error
        difference = None if run is None else largest_difference(run(images), network(images))
        if difference is not None and not difference <= TOLERANCE:
            raise DreamforgeError(
                f"{path.name}: the program's logits differ from the network's by {difference:.2g} "
                f"of the largest one, expected at most {TOLERANCE:g}; nothing was written"
            )
    return Program(
        path=str(path),
        num_bytes=path.stat().st_size,
        inputs="pixels in [0, 1]" if from_pixels else "normalized",
        shape=(num_images, *shape),
        difference=difference,
    )


def _no_program(path: Path, error: Exception, advice: str = "") -> DreamforgeError:
    """Return the error that says why, in what the last line of the cause says."""
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split())[:160]
    return DreamforgeError(f"{path.name}: cannot be written as a program ({reason}){advice}")


@torch.no_grad()
def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference between logits, over the largest logit expected."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def run_onnx(path: Path) -> Run:
    """Return what runs the ONNX file on the CPU; it takes and returns float32 on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _write_pt2(program: Any, path: Path) -> Run | None:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())
    buffer.seek(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.10's own
        loaded: Run = torch.export.load(buffer).module()
    return loaded


def _write_onnx(program: Any, path: Path) -> Run | None:
    exported = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True)
    assert exported is not None
    exported.save(str(path), external_data=False)
    return run_onnx(path) if importlib.util.find_spec("onnxruntime") else None


_WRITERS: dict[str, Callable[[Any, Path], Run | None]] = {".pt2": _write_pt2, ".onnx": _write_onnx}
