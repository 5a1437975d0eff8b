import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import bench_precision
from bench_depthwise import passes


def test_both_precisions_are_timed_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--networks", "resnet20", "--scale", "0.02", "--repetitions", "1", "--device", "cpu"]
    assert bench_precision.main(few) == 0

    head, *rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]
    assert "float32, ms" in head
    assert "bfloat16, ms" in head
    assert [row[1] for row in cells] == ["inputs", "all"]
    for row in cells:
        single, half = float(row[2]), float(row[3])
        assert float(row[4].removesuffix(" x")) == pytest.approx(single / half, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_timed_computes_in_the_dtype_and_wants_the_right_gradients(dtype: torch.dtype):
    seen = []
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    network[0].register_forward_hook(lambda _m, _given, made: seen.append(made.dtype))
    inputs = torch.randn(2, 3, 8, 8)

    assert len(passes(network, inputs, train=False, dtype=dtype)()) == 1
    assert len(passes(network, inputs, train=True, dtype=dtype)()) == 3
    assert seen == [dtype, dtype]
