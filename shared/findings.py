"""A table of findings to judge by: which image shows which of several things, perhaps at once."""

import csv
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from shared.errors import IncompatibleError, InputFileError
from shared.evaldata import EvalData, read_images
from shared.imagefile import open_image
from shared.manifest import printable
from shared.metrics import with_curve
from shared.spec import SIGMOID, TeacherSpec

ABSENT, PRESENT, UNKNOWN = 0, 1, -1
_VALUES = {
    **dict.fromkeys(("0", "0.0", "false", "no"), ABSENT),
    **dict.fromkeys(("1", "1.0", "true", "yes"), PRESENT),
    **dict.fromkeys(("", "-1", "-1.0", "nan"), UNKNOWN),
}


def open_findings(path: Path, spec: TeacherSpec) -> EvalData:
    """Return the images that a table lists, made to fit the teacher, with their findings.

    Args:
        path: CSV. The first row has names; the first column has image files, relative to the
            table. Further columns are findings: 1 present, 0 absent, empty or -1 not known. Those
            with other names than the teacher's are passed over, those that are missing not known.
            So are rows without anything.
        spec: The teacher's image shape and classes.

    Raises:
        InputFileError: If the table or an image cannot be used, or nothing is known there of any of
            the teacher's findings.
        IncompatibleError: If the teacher has no findings, or none of these.
    """
    if spec.answers != SIGMOID:
        raise IncompatibleError(
            f"{path}: a table of findings, and the teacher answers with one class per image; "
            "expected a folder with a folder per class (or --answers sigmoid)"
        )
    header, rows = _read_rows(path)
    _refuse_index(path, rows)
    places, remarks = _match_columns(header[1:], spec, str(path))
    findings = torch.full((len(rows), spec.num_logits), UNKNOWN, dtype=torch.int8)
    for number, (line, row) in enumerate(rows):
        for finding, column in places.items():
            findings[number, finding] = _value(row[column], f"{path}: line {line}")
    if bool((findings == UNKNOWN).all()):
        raise InputFileError(
            f"{path}: nothing is known there of any of the teacher's findings, expected 1 "
            "(present) or 0 (absent) in some rows"
        )
    loaders = [partial(_open_image, path, line, row[0]) for line, row in rows]
    images = read_images(loaders, spec.image_shape, str(path))
    remarks += remarks_on_curves(findings, spec, printable(str(path)))
    return EvalData(images=images, labels=findings, remarks=remarks)


def remarks_on_curves(findings: Tensor, spec: TeacherSpec, source: str) -> tuple[str, ...]:
    """Return a sentence if AUROC is no mean over all findings; else nothing.

    Args:
        findings: ``(N, C)``: 1, 0, -1 not known.
        spec: Names them.
        source: Where they are from.
    """
    counted = with_curve(findings)
    if len(counted) == spec.num_logits:
        return ()
    if not counted:
        return (
            f"{source}: no AUROC, since no finding is present in one image and absent in another",
        )
    names = spec.class_names or [f"class {label}" for label in range(spec.num_classes)]
    return (
        f"{source}: AUROC is the mean over {len(counted)} of {spec.num_logits} findings "
        f"({_first([names[finding + 1] for finding in counted])}), those that are present in one "
        "image and absent in another",
    )


def finding_names(path: Path) -> list[str]:
    """Return the names of a table's findings: those of its columns but the first.

    Raises:
        InputFileError: If it cannot be used.
    """
    return _read_rows(path)[0][1:]


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names, and the rows with the numbers of their lines."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            read = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
            found = [(line, row) for line, row in read if any(row)]  # spreadsheets leave ",,,"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputFileError(f"{path}: {error}, expected a table of findings (CSV)") from error
    if found and len(found[0][1]) < 2:
        _refuse_other_separators(path, found[0][1])
    if len(found) < 2 or len(found[0][1]) < 2:
        raise InputFileError(
            f"{path}: expected a row of names, a column of image files and one for each finding, "
            "and a row for each image"
        )
    (_, header), *rows = found
    for line, row in rows:
        if len(row) != len(header):
            _refuse_other_separators(path, header)
            raise InputFileError(
                f"{path}: line {line}: found {len(row)} cells, expected {len(header)}"
            )
    return header, rows


def _refuse_other_separators(path: Path, header: Sequence[str]) -> None:
    """Raise InputFileError if something else than commas plainly separates the cells."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if sum(cell.count(separator) for cell in header) >= len(header):
            raise InputFileError(
                f"{path}: found {name} between its cells, expected commas; save it as CSV with "
                "commas"
            )


def _refuse_index(path: Path, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    """Raise InputFileError if the first column numbers the rows: pandas writes that before all."""
    cells = [row[0] for _, row in rows]
    if all(cell.isdecimal() for cell in cells) and not (path.parent / cells[0]).exists():
        raise InputFileError(
            f"{path}: found numbers in the first column ({_first(cells)}), expected image files; "
            "leave out the index (of pandas: to_csv(..., index=False))"
        )


def _open_image(table: Path, line: int, name: str) -> Image.Image:
    if not name:
        raise InputFileError(f"{table}: line {line}: found no image file in the first column")
    try:
        return open_image(table.parent / name)
    except InputFileError as error:
        raise InputFileError(f"{table}: line {line}: {error}") from error


def _match_columns(
    names: Sequence[str], spec: TeacherSpec, source: str
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return the column of each finding, both numbered from 0, and remarks on what was assumed."""
    _refuse_twice(names, spec, source)
    if spec.class_names is None:
        if len(names) != spec.num_logits:
            raise IncompatibleError(
                f"{source}: found {len(names)} findings, expected the teacher's {spec.num_logits}; "
                "name all with --class-names"
            )
        shown = _first(names)
        remark = (
            f"the names of the teacher's findings are not known: the columns of "
            f"{printable(source)} are taken to be its in this order: {shown}; --class-names says "
            "otherwise"
        )
        return {place: place + 1 for place in range(len(names))}, (remark,)
    own = spec.class_names[1:]
    places = {own.index(name): column for column, name in enumerate(names, 1) if name in own}
    if not places:
        raise IncompatibleError(
            f"{source}: found the columns {_first(names)}, expected the teacher's findings "
            f"({_first(own)}); rename them, or name the teacher's with --class-names"
        )
    missing = [name for place, name in enumerate(own) if place not in places]
    if not missing:
        return places, ()
    return places, (f"{printable(source)}: nothing is known there of {_first(missing)}",)


def _refuse_twice(names: Sequence[str], spec: TeacherSpec, source: str) -> None:
    """Raise InputFileError if a finding has several columns: which of them is true?"""
    own = names if spec.class_names is None else spec.class_names[1:]
    for name, times in Counter(names).items():
        if times > 1 and name in own:
            raise InputFileError(
                f"{source}: found {times} columns called {printable(name, 60)!r}, expected one for "
                "each finding; leave one"
            )


def _value(cell: str, where: str) -> int:
    if cell.lower() not in _VALUES:
        raise InputFileError(
            f"{where}: found {printable(cell, 40)!r}, expected 1 (present), 0 (absent), or nothing "
            "(not known)"
        )
    return _VALUES[cell.lower()]


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, 30) for name in names[:4])
    return f"{shown} ..." if len(names) > 4 else shown
