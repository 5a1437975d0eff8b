import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import misfits

SHIPPED = Path(__file__).parent.parent / "data" / "cifar10-resnet20.safetensors"


def test_every_architecture_has_a_row_with_its_distance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert misfits.main(["--arch", "resnet20,resnet20_end", str(SHIPPED)]) == 0

    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:] if "|" in line]
    assert [row[2].strip() for row in rows] == ["resnet20", "resnet20_end"]
    assert float(rows[0][4]) < float(rows[1][4])


def test_what_does_not_fit_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert misfits.main(["--arch", "resnet32", str(SHIPPED)]) == 3
    assert capsys.readouterr().err.count("\n") == 1
