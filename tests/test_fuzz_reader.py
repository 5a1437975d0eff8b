import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import fuzz_reader


def test_fifty_mutated_files_are_refused_or_read_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fuzz_reader.py", "--n", "50", "--seed", "1"])
    monkeypatch.setattr(fuzz_reader.faulthandler, "enable", lambda: None)  # pytest has its own

    assert fuzz_reader.main() == 0
    assert "50 files in" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_mutations_change_the_file():
    data, draws = bytes(range(256)) * 20, random.Random(0)

    assert sum(fuzz_reader.mutate(data, draws) != data for _ in range(100)) > 90


@pytest.mark.parametrize("length", [0, 1, 2])
def test_mutations_leave_tiny_files_alone_or_shorten_them(length):
    assert len(fuzz_reader.mutate(b"a" * length, random.Random(0))) < 100
