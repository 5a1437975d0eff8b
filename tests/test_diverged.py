"""A batch that diverged is made with a lower rate, and the set says so for good."""

import pytest
import torch

from dreamforge.card import readme_of
from dreamforge.engine import Engine
from dreamforge.forge import SynthesisResult, synthesize
from dreamforge.info import describe
from dreamforge.journal import Journal
from shared.shards import read_index
from shared.workers import Worker

CPU = torch.device("cpu")


@pytest.fixture
def synth(tiny_teacher, tiny_config, tmp_path, monkeypatch):
    """Three batches, of which the second fails twice and the third once."""
    original, failures = Engine._optimize, {1: 2, 2: 1}

    def unstable(self, batch, targets, lr, on_step):
        best = original(self, batch, targets, lr, on_step)
        if lr > tiny_config.lr / 2 ** failures.get(batch, 0):
            best.last = torch.tensor(torch.nan)
        return best

    monkeypatch.setattr(Engine, "_optimize", unstable)

    def run(**options) -> SynthesisResult:
        return synthesize(tiny_teacher, tiny_config, tmp_path / "d.h5", CPU, **options)

    return run


@pytest.mark.parametrize("reproducible", [False, True])
def test_restarts_are_said_and_recorded(synth, tmp_path, monkeypatch, reproducible):
    if reproducible:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    result = synth(provenance={"license": "CC0-1.0"})

    assert result.notes == (
        "batch 1 diverged, made with the rate / 4",
        "batch 2 diverged, made with the rate / 2",
    )
    assert read_index(tmp_path / "d.h5").manifest.provenance["attempts"] == {"1": 3, "2": 2}
    readme = readme_of(tmp_path / "d.h5", describe(tmp_path / "d.h5"))
    assert "| diverged | 2 batches" in readme


def test_they_are_those_of_all_workers_and_survive_a_repair(synth, tmp_path):
    synth(worker=Worker(index=1, count=2))
    synth(worker=Worker(index=0, count=2))
    found = read_index(tmp_path / "d.h5").manifest.provenance["attempts"]
    assert found == {"1": 3, "2": 2}

    (tmp_path / "d-00002-of-00003.h5").unlink()
    assert synth().num_made == 1
    assert read_index(tmp_path / "d.h5").manifest.provenance["attempts"] == found


def test_a_run_without_trouble_says_nothing(tiny_teacher, tiny_config, tmp_path):
    synthesize(tiny_teacher, tiny_config, tmp_path / "d.h5", CPU)

    assert "attempts" not in read_index(tmp_path / "d.h5").manifest.provenance
    assert "diverged" not in readme_of(tmp_path / "d.h5", describe(tmp_path / "d.h5"))


def test_garbled_lines_of_the_journal_record_nothing(tmp_path):
    journal = Journal(tmp_path / "d.h5", {}, "cpu")
    for attempts in (3, {"x": 2}, {"4": "many"}, {"5": 2}):
        with journal.timing(0) as facts:
            facts["attempts"] = attempts

    assert journal.read().attempts == {"5": 2}
