"""``recover export``: a student for a device."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recover.cli_options import AS_JSON, FILE, percent
from shared.cli import emit, say, show_table
from shared.errors import ConfigError

if TYPE_CHECKING:
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
@click.option("--overwrite", is_flag=True, help="replace what is at --out")
@AS_JSON
def export(
    student_path: Path,
    out: Path,
    pixels: bool,  # noqa: FBT001
    batch: int | None,
    student: str | None,
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Write STUDENT, student.safetensors or the folder of a run, as a program of its own.

    A .pt2 file is loaded by torch.export.load, an .onnx file (which takes the packages onnx and
    onnxscript) by ONNX runtimes; nothing of ours is needed then. The program is run once here, and
    its answers compared with the student's.

    \b
    Examples:
      recover export dreams-c0.5 --out student.pt2
      recover export dreams-c0.5 --out student.onnx --pixels --batch 1
    """
    from recover.export import load_student
    from recover.programs import refuse_format, write_program

    refuse_format(out)
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out}: is there already; choose another, or --overwrite it")
    path = student_path / "student.safetensors" if student_path.is_dir() else student_path
    classifier = load_student(path, student).classifier
    program = write_program(classifier, out, from_pixels=pixels, num_images=batch)
    if program.difference is None:
        say("recover: not run here: pip install onnxruntime to compare its answers")
    emit(dataclasses.asdict(program), as_json=as_json, render=lambda: _show(program))


def _show(program: "Program") -> None:
    from recover.tables import num_bytes

    number, *size = program.shape
    rows = [
        ("size", num_bytes(program.num_bytes)),
        ("takes", f"{number or 'any number of'} images of {'x'.join(map(str, size))}"),
        ("inputs", program.inputs),
        ("largest difference of a logit", percent(program.difference)),
    ]
    show_table(program.path, ["", "value"], rows)
