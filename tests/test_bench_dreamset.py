import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import bench_dreamset
import kill_synth

from shared.dreamset import DreamSet


@pytest.fixture
def sizes():
    return bench_dreamset.Sizes(
        side=32, num_classes=10, num_images=16, num_decoded=4, repetitions=1
    )


def test_it_measures_everything_once(sizes, tmp_path, capsys):
    dreams = bench_dreamset.example_dreams(sizes)
    table = bench_dreamset.Table(sizes)
    bench_dreamset.bench_files(table, sizes, dreams, tmp_path)
    bench_dreamset.bench_random(table, sizes, tmp_path)
    bench_dreamset.bench_feed(table, sizes, tmp_path / "dreams.h5", torch.device("cpu"))

    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert len({(row[1], row[2]) for row in rows}) == len(rows) == 19
    assert {row[1] for row in rows} == {"write", "read in order", "random batches", "Feed to cpu"}
    opened = DreamSet.open(tmp_path / "dreams.h5")
    assert torch.equal(opened.read(0, 16).images, dreams.images)


def test_rates_are_compared_with_their_base(sizes, capsys):
    table = bench_dreamset.Table(sizes)
    table._rates["read in order", "numpy.load"] = 100.0

    assert table._compared("read in order", 60.0) == "0.60 x numpy.load"
    assert table._compared("random batches", 60.0) == ""
    table._rates |= {("random batches", "folder, PNG"): 2, ("random batches", "folder, JPEG"): 3}
    assert table._compared("random batches", 60.0) == "30.00 x folder, PNG, 20.00 x folder, JPEG"


def test_folders_are_compared_byte_by_byte(tmp_path):
    (tmp_path / ".hidden.tmp").write_bytes(b"left over")
    (tmp_path / "dreams.h5").write_bytes(b"")

    assert list(kill_synth.digests(tmp_path)) == [".hidden.tmp", "dreams.h5"]
