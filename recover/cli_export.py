"""``recover export``: a student for a device."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recover.cli_options import AS_JSON, area, open_real_images, percent, warn
from shared.cli import emit, say, show_table
from shared.cli_options import FILE
from shared.cli_progress import progress_display
from shared.errors import ConfigError

if TYPE_CHECKING:
    from recover.int8 import Quantized
    from recover.programs import Program


@click.command()
@click.argument("student_path", metavar="STUDENT", type=FILE)
@click.option("--out", type=FILE, required=True, help="file to write: .pt2 or .onnx")
@click.option("--pixels", is_flag=True, help="let it take pixels in [0, 1] and normalise them")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="images that it takes at once  [default: any number]",
)
@click.option(
    "--student",
    metavar="ARCH",
    help="the student's architecture, where its file names code: package.module:factory",
)
@click.option(
    "--int8",
    is_flag=True,
    help="in 8 bits: weights in int8, activations in ranges that --dreams tell; .onnx",
)
@click.option("--dreams", "dreams_path", type=FILE, help="with --int8: index of the dream set")
@click.option(
    "--eval-data",
    metavar="SOURCE",
    help="with --int8: real images to judge by: a folder per class, cifar10:ROOT, or a table of "
    "findings (.csv)",
)
@click.option(
    "--symmetric",
    is_flag=True,
    help="with --int8: activations in int8 around 0, as GPUs and ARM want them, instead of uint8",
)
@click.option("--overwrite", is_flag=True, help="replace what is at --out")
@AS_JSON
def export(
    student_path: Path,
    out: Path,
    pixels: bool,  # noqa: FBT001
    batch: int | None,
    student: str | None,
    int8: bool,  # noqa: FBT001
    dreams_path: Path | None,
    eval_data: str | None,
    symmetric: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Write STUDENT as a program of its own.

    STUDENT is student.safetensors, or the folder of a run. A .pt2 file is loaded by
    torch.export.load, an .onnx file (which takes the packages onnx and onnxscript) by ONNX
    runtimes; nothing of ours is needed then. The program is run once here, and its answers compared
    with the student's. With --int8 (and onnxruntime) it computes in 8 bits, and is judged by
    held-out dreams and real images.

    \b
    Examples:
      recover export dreams-c0.5 --out student.pt2
      recover export dreams-c0.5 --out student.onnx --pixels --batch 1
      recover export dreams-c0.5 --out student-int8.onnx --int8 --dreams dreams.h5
    """
    from recover.export import load_student, student_at
    from recover.programs import refuse_format, write_program

    if int8:
        from recover.int8 import refuse_int8

        if dreams_path is None:
            raise click.UsageError("--int8 measures ranges on dreams: pass --dreams, too")
        refuse_int8(out)
    elif dreams_path is not None or eval_data is not None or symmetric:
        raise click.UsageError("--dreams, --eval-data and --symmetric are of --int8: pass it, too")
    refuse_format(out)
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out}: is there already; choose another, or --overwrite it")
    path = student_at(student_path)
    saved = load_student(path, student)
    classifier = saved.classifier
    if dreams_path is not None:
        from recover.int8 import write_int8
        from shared.dreamset import DreamSet

        real = open_real_images(eval_data, classifier.spec)
        with progress_display() as progress:
            quantized = write_int8(
                saved,
                out,
                DreamSet.open(dreams_path),
                real,
                from_pixels=pixels,
                num_images=batch,
                symmetric=symmetric,
                progress=progress,
            )
        warn(quantized.warnings)
        emit(_record(quantized), as_json=as_json, render=lambda: _show_int8(quantized))
        return
    program = write_program(classifier, out, from_pixels=pixels, num_images=batch)
    if program.difference is None:
        say("recover: not run here: pip install onnxruntime to compare its answers")
    emit(dataclasses.asdict(program), as_json=as_json, render=lambda: _show(program))


def _show(program: "Program") -> None:
    from recover.tables import num_bytes

    rows = [
        ("size", num_bytes(program.num_bytes)),
        *_interface(program),
        ("largest difference of a logit", percent(program.difference)),
    ]
    show_table(program.path, ["", "value"], rows)


def _interface(program: "Program") -> list[tuple[str, str]]:
    number, *size = program.shape
    images = f"{number or 'any number of'} images of {'x'.join(map(str, size))}"
    return [("takes", images), ("inputs", program.inputs)]


def _record(found: "Quantized") -> dict[str, Any]:
    """Return what was found, and the fields of its program, as JSON types."""
    record = dataclasses.asdict(found)
    return {**record.pop("program"), **record}


def _show_int8(found: "Quantized") -> None:
    from recover.tables import num_bytes

    number = found.program.shape[0] or 1
    rows = [
        ("size", num_bytes(found.program.num_bytes), num_bytes(found.num_bytes_float)),
        ("gzip", num_bytes(found.num_bytes_gzip), num_bytes(found.num_bytes_float_gzip)),
        (
            f"time of {number} on this CPU",
            f"{1000 * found.seconds:.3g} ms, {found.seconds / found.seconds_float:.2f} of it",
            f"{1000 * found.seconds_float:.3g} ms",
        ),
        (f"agreement on {found.num_varied:,} varied dreams", percent(found.agreement), ""),
    ]
    if found.on_real and found.student_on_real:
        on = f"on {found.num_real:,} real images"
        mine, its = found.on_real, found.student_on_real
        rows.append((f"accuracy {on}", percent(mine.accuracy), percent(its.accuracy)))
        if mine.auroc is not None:
            rows.append((f"AUROC {on}", area(mine.auroc), area(its.auroc)))
    rows += [(name, value, "") for name, value in _interface(found.program)]
    rows.append(("ranges", f"of {found.num_calibrated:,} dreams", ""))
    show_table(found.program.path, ["", "8 bits", "float32"], rows)
