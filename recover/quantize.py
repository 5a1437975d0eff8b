"""A program in 8 bits: weights in int8, and activations in a range that dreams tell.

Post-training quantisation (Jacob et al. 2018) as ONNX Runtime does it. In its QDQ format a number
is ``scale * (q - zero_point)``: a scale for each output channel of a weight, and one for each
tensor of activations, from the least and the largest value that it takes on images. Inverted images
do for that (Cai et al. 2020, ZeroQ).
"""

import dataclasses
import importlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import DreamforgeError
from shared.images import to_pixels
from shared.metrics import channel_statistics
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.spec import TeacherSpec

_BATCH = 32  # images at once


def with_plain_pixels(spec: TeacherSpec) -> TeacherSpec:
    """Return the spec of a program that takes pixels in [0, 1] as they are."""
    num_channels = len(spec.mean)
    return dataclasses.replace(spec, mean=(0.0,) * num_channels, std=(1.0,) * num_channels)


def full_batch(inputs: Tensor, num_images: int | None) -> Tensor:
    """Return ``inputs`` and copies of the last one, ``num_images`` in all; None adds nothing."""
    missing = (num_images or len(inputs)) - len(inputs)
    return torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])])


def quantize_onnx(
    source: Path,
    target: Path,
    images: Tensor,
    spec: TeacherSpec,
    *,
    num_images: int | None = None,
    symmetric: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> None:
    """Write the ONNX program ``source`` in 8 bits to ``target``.

    Args:
        source: A program in float32.
        target: Replaced if it is there.
        images: uint8 ``(N, C, H, W)``, N at least 1: what ranges are measured on.
        spec: Says how the program's inputs are normalised.
        num_images: That the program takes at once; None for any number.
        symmetric: Activations are int8 around 0, as GPUs and ARM want them, instead of uint8.
        progress: Told of the images.

    Raises:
        DreamforgeError: If ONNX Runtime cannot.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    preprocess = importlib.import_module("onnxruntime.quantization.shape_inference")
    kinds = quantization.QuantType
    reader = _reader(quantization, source, _batches(images, spec, num_images, progress))
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            prepared = Path(folder) / "prepared.onnx"
            # Symbolic shapes are for transformers; BatchNorms are folded here.
            preprocess.quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                target,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=kinds.QInt8 if symmetric else kinds.QUInt8,
                weight_type=kinds.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": symmetric},
            )
    except Exception as error:  # whatever another's graph may lead to there
        reason = " ".join(str(error).split())[:160]
        raise DreamforgeError(f"the program cannot be quantized ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back warnings of the root logger, such as of each weight that has no channels."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _batches(
    images: Tensor, spec: TeacherSpec, num_images: int | None, progress: ProgressCallback
) -> Iterator[Tensor]:
    mean, std = channel_statistics(spec, torch.device("cpu"))
    done = 0
    for part in images.split(num_images or _BATCH):
        yield full_batch((to_pixels(part) - mean) / std, num_images)
        done += len(part)
        progress(Progress(stage="calibrate", done=done, total=len(images), unit="images"))


def _reader(quantization: Any, program: Path, batches: Iterator[Tensor]) -> Any:
    """Return what ONNX Runtime asks for batches, until there are none."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(program.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {name: batch.numpy()}

    return Reader()
