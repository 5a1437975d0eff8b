"""A student in 8 bits, and what it is worth beside itself in float32."""

import dataclasses
import gzip
import importlib.util
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from recover.costs import GZIP_LEVEL, time_in_turns
from recover.examine import require_same
from recover.export import Student
from recover.holdout import Split, images_of, split_rows
from recover.programs import (
    Program,
    Run,
    largest_difference,
    refuse_format,
    run_onnx,
    write_program,
)
from recover.quantize import full_batch, quantize_onnx, with_plain_pixels
from recover.selection import varied
from shared.answers import answer_as_settled
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.evaldata import EvalData
from shared.files import atomic_path
from shared.metrics import agreement, known_accuracy, mean_auroc, require_finite
from shared.progress import ProgressCallback, ignore_progress
from shared.seeding import generator
from shared.teacher import Teacher

NUM_CALIBRATED = 512  # dreams at most
FAITHFUL = 0.9  # agreement with the student below which something is said
_HOLDOUT = 0.1  # of a set that the student was not taught on


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """On real images, in [0, 1]; None where there is no such figure."""

    accuracy: float | None
    auroc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What was written, and what it is worth.

    Attributes:
        program: Of the file; its ``difference`` is of logits on varied dreams.
        num_bytes_gzip: Of the file through ``gzip -6``.
        num_bytes_float: Of the same program in float32.
        num_bytes_float_gzip: Likewise, through ``gzip -6``.
        num_calibrated: Dreams that ranges were measured on.
        num_varied: Variants of other dreams, see :func:`recover.selection.varied`.
        agreement: With the student on these, in [0, 1].
        num_real: Real images.
        on_real: What it achieves on these; None without any.
        student_on_real: What the student does.
        seconds: Of one image (or as many as it takes) in ONNX Runtime on this CPU, the median.
        seconds_float: Of the same program in float32, measured in turns with it.
        warnings: One sentence each.
    """

    program: Program
    num_bytes_gzip: int
    num_bytes_float: int
    num_bytes_float_gzip: int
    num_calibrated: int
    num_varied: int
    agreement: float
    num_real: int
    on_real: Marks | None
    student_on_real: Marks | None
    seconds: float
    seconds_float: float
    warnings: tuple[str, ...]


def refuse_int8(path: Path) -> None:
    """Check that a program in 8 bits can be written to ``path``, here.

    Raises:
        ConfigError: If not.
    """
    refuse_format(path)
    if path.suffix != ".onnx":
        raise ConfigError(f"--out {path}: found suffix {path.suffix!r}, expected .onnx for --int8")
    if not importlib.util.find_spec("onnxruntime"):
        raise ConfigError("--int8: needs onnxruntime: pip install onnx onnxscript onnxruntime")


def write_int8(
    student: Student,
    path: Path,
    dreams: DreamSet,
    real: EvalData | None = None,
    *,
    from_pixels: bool = False,
    num_images: int | None = None,
    symmetric: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Quantized:
    """Write the student as an ONNX program in 8 bits, and judge it.

    Args:
        student: On the CPU.
        path: Ends in ``.onnx``; replaced if it is there.
        dreams: At least one. Ranges are measured on some, others judge; where the student was
            taught on this set, those that were held out from it.
        real: Labelled images, to judge by.
        from_pixels: The program takes pixels in [0, 1] and normalises them itself.
        num_images: That it takes at once; None for any number.
        symmetric: Activations are int8 around 0, as GPUs and ARM want them, instead of uint8.
        progress: Told of the images that ranges are measured on.

    Raises:
        ConfigError: If ``path`` has another suffix, or ONNX Runtime is not here.
        IncompatibleError: If the dreams have other images or classes than the student.
        DreamforgeError: If the student cannot be written as such a program.
    """
    refuse_int8(path)
    classifier, spec = student.classifier, student.classifier.spec
    require_same(spec, dreams.manifest.teacher, "dream set")
    split, warnings = rows_to_calibrate(student, dreams)
    taken = with_plain_pixels(spec) if from_pixels else spec
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        program = write_program(classifier, plain, from_pixels=from_pixels, num_images=num_images)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            quantize_onnx(
                plain,
                temporary,
                images_of(dreams, split.train),
                taken,
                num_images=num_images,
                symmetric=symmetric,
                progress=progress,
            )
        runs = {"int8": run_onnx(path), "float": run_onnx(plain)}
        example = torch.rand(num_images or 1, *spec.image_shape)
        times = time_in_turns({name: partial(_seconds, run, example) for name, run in runs.items()})
        int8, float32 = path.read_bytes(), plain.read_bytes()

    network = _Program(runs["int8"], num_images)
    answer_as_settled(classifier.network, network)
    judged = Teacher(network=network, spec=taken)
    variants = varied(images_of(dreams, split.held_out))
    answers, expected = judged.logits(variants), classifier.logits(variants)
    require_finite(expected, "the student")
    faithful = agreement(answers, expected)
    if faithful < FAITHFUL:
        warnings.append(
            f"in 8 bits it answers like the student on only {100 * faithful:.1f} % of varied dreams"
        )
    return Quantized(
        program=dataclasses.replace(
            program,
            path=str(path),
            num_bytes=len(int8),
            difference=largest_difference(answers, expected),
        ),
        num_bytes_gzip=_num_bytes_gzip(int8),
        num_bytes_float=len(float32),
        num_bytes_float_gzip=_num_bytes_gzip(float32),
        num_calibrated=len(split.train),
        num_varied=len(variants),
        agreement=faithful,
        num_real=len(real.images) if real else 0,
        on_real=_marks(judged, real) if real else None,
        student_on_real=_marks(classifier, real) if real else None,
        seconds=statistics.median(times["int8"]),
        seconds_float=statistics.median(times["float"]),
        warnings=(*warnings, *(real.remarks if real else ())),
    )


def rows_to_calibrate(student: Student, dreams: DreamSet) -> tuple[Split, list[str]]:
    """Return rows to measure ranges on, others to judge by, and remarks.

    At most :data:`NUM_CALIBRATED`, and as many as a run holds out; where none are left to judge by,
    the rows that ranges are measured on.
    """
    own = student.facts.get("dreams_digest") == dreams.manifest.digest()
    config = student.facts.get("config", {}) if own else {}
    split = split_rows(dreams.labels, config.get("holdout", _HOLDOUT), config.get("seed", 0))
    shuffled = torch.randperm(len(split.train), generator=generator(0, "calibrate"))
    chosen = split.train[shuffled[:NUM_CALIBRATED].sort().values]
    if len(split.held_out):
        return Split(chosen, split.held_out), []
    return Split(chosen, chosen), ["judged by the dreams that ranges were measured on"]


class _Program(nn.Module):
    """An ONNX program as a network.

    Args:
        run: Of the program.
        num_images: That it takes at once; None for any number.
    """

    def __init__(self, run: Run, num_images: int | None) -> None:
        super().__init__()
        self.run, self.num_images = run, num_images
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # it computes on the CPU

    def forward(self, inputs: Tensor) -> Tensor:
        parts = []
        for part in inputs.split(self.num_images or len(inputs)):
            batch = full_batch(part, self.num_images)
            parts.append(self.run(batch).reshape(len(batch), -1)[: len(part)])
        return torch.cat(parts)


def _marks(classifier: Teacher, real: EvalData) -> Marks:
    logits = classifier.logits(real.images)
    return Marks(
        accuracy=known_accuracy(logits, real.labels), auroc=mean_auroc(logits, real.labels)
    )


def _seconds(run: Run, images: Tensor) -> float:
    started = time.perf_counter()
    run(images)
    return time.perf_counter() - started


def _num_bytes_gzip(stored: bytes) -> int:
    return len(gzip.compress(stored, GZIP_LEVEL, mtime=0))
