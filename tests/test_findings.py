"""Tables of findings: what cannot be judged by is refused at once, and by its line."""

from pathlib import Path

import pytest
import torch
from conftest import IMAGE_SHAPE
from test_answers import FINDINGS, spec_of, table

from shared.errors import IncompatibleError, InputFileError
from shared.evaldata import EvalData, eval_data_of, open_eval_data
from shared.findings import remarks_on_curves


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds 0.png to 3.png."""
    table(tmp_path, FINDINGS, num_images=4)
    return tmp_path


def opened(folder: Path, text: str, names: tuple[str, ...] | None = FINDINGS) -> EvalData:
    (folder / "t.csv").write_text(text)
    return open_eval_data(str(folder / "t.csv"), spec_of(names))


def test_a_table_in_which_nothing_is_known_is_refused(folder: Path) -> None:
    with pytest.raises(InputFileError, match=r"t\.csv: nothing is known there of any of the teach"):
        opened(folder, "file,top,left\n0.png,,-1\n1.png,nan,\n")
    assert opened(folder, "file,top,left\n0.png,,-1\n1.png,nan,0\n").labels.max() == 0


def test_tensors_in_which_nothing_is_known_are_refused() -> None:
    images = torch.zeros(3, *IMAGE_SHAPE, dtype=torch.uint8)

    with pytest.raises(IncompatibleError, match="no label that is known"):
        eval_data_of(images, torch.full((3, 2), -1), spec_of(FINDINGS))


@pytest.mark.parametrize("names", [FINDINGS, None])
def test_a_finding_in_two_columns_is_refused(folder: Path, names: tuple[str, ...] | None) -> None:
    with pytest.raises(InputFileError, match="found 2 columns called 'top'"):
        opened(folder, "file,top,left,top\n0.png,1,0,0\n", names)
    # What is passed over may stand there twice.
    assert len(opened(folder, "file,top,left,age,age\n0.png,1,0,3,4\n").labels) == 1


def test_rows_without_anything_are_passed_over(folder: Path) -> None:
    data = opened(folder, "file,top,left\n0.png,1,0\n,,\n1.png,0,1\n,,\n   \n")

    assert data.labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,top\n0.png,1\nnope.png,1\n", r"t\.csv: line 3: .*nope\.png: not a readable image"),
        ("file,top\n0.png,1\n,1\n", r"t\.csv: line 3: found no image file"),
        (",file,top,left\n0,0.png,1,0\n1,1.png,0,1\n", r"found numbers .*\(0, 1\), expected im"),
        ("file;top;left\n0.png;1;0\n", "found semicolons between its cells, expected commas"),
        ("file;top,x;left\n0.png;1;0\n", "found semicolons between its cells, expected commas"),
        ("file\ttop\tleft\n0.png\t1\t0\n", "found tabs between its cells, expected commas"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message) as caught:
        opened(folder, text)
    assert "\n" not in str(caught.value)


def test_images_may_have_numbers_for_names(folder: Path) -> None:
    (folder / "7").write_bytes((folder / "0.png").read_bytes())

    assert len(opened(folder, "file,top\n7,1\n").images) == 1


def test_a_file_that_is_no_table_is_told_what_is_taken(folder: Path) -> None:
    (folder / "t.tsv").write_text("file\ttop\n")

    with pytest.raises(InputFileError, match=r"found a file, expected a folder .* \(\.csv\)"):
        open_eval_data(str(folder / "t.tsv"), spec_of(FINDINGS))


def test_findings_that_have_no_curve_are_remarked_on(folder: Path) -> None:
    both = opened(folder, "file,top,left\n0.png,1,0\n1.png,0,1\n")
    one = opened(folder, "file,top,left\n0.png,1,0\n1.png,0,-1\n")
    none = opened(folder, "file,top,left\n0.png,1,0\n1.png,1,0\n")

    assert both.remarks == ()
    assert "AUROC is the mean over 1 of 2 findings (top)" in one.remarks[0]
    assert "no AUROC, since no finding is present in one image" in none.remarks[0]
    at_hand = eval_data_of(one.images, one.labels, spec_of(FINDINGS))
    assert at_hand.remarks[0].startswith("eval_data: AUROC is the mean over 1 of 2 findings (top)")
    assert "(class 2)" in remarks_on_curves(one.labels.flip(1), spec_of(), "t")[0]
