import sys
from pathlib import Path

import pytest
import torch
from shown_networks import IMAGENET, UNIT, network_shown, photographs

from shared.checkpoint import save_network
from shared.teacher import load_teacher

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import input_scale


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "usual.safetensors"
    save_network(path, network_shown(*IMAGENET), {})
    return path


def test_the_twin_sees_of_pixels_what_the_network_sees_of_inputs(
    tmp_path: Path, checkpoint: Path
) -> None:
    assert input_scale.main(["fold", str(checkpoint), str(tmp_path / "unit.pth")]) == 0

    usual, twin = load_teacher(checkpoint), load_teacher(tmp_path / "unit.pth")
    pixels = photographs()
    seen = [
        each.network.bn1(each.network.conv1(each.normalize(pixels)))[:, :, 1:-1, 1:-1]
        for each in (usual, twin)
    ]
    assert (twin.spec.mean, twin.spec.std) == UNIT  # found, since nothing says it
    assert torch.allclose(*seen, atol=1e-4)


def test_the_table_has_a_row_for_each_checkpoint(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = tmp_path / "unit.safetensors"
    save_network(unit, network_shown(*UNIT), {})

    assert input_scale.main(["table", str(checkpoint), str(unit)]) == 0

    rows = capsys.readouterr().out.strip().splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [checkpoint.name, unit.name]
    assert all(float(row.split("|")[4]) < 1.8 for row in rows[2:])  # both are taken as they are


def test_a_bad_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert input_scale.main(["table", str(tmp_path / "none.pt")]) == 3
    assert capsys.readouterr().err.count("\n") == 1
