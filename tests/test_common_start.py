import os

import pytest
import torch

from dreamforge import common_start
from dreamforge.common_start import StartFile, learn_start
from dreamforge.config import SynthesisConfig
from dreamforge.fast_engine import FastEngine, Start
from dreamforge.stream_stats import StreamStats

CPU = torch.device("cpu")
RUN = {"teacher": "abc", "synthesis": {"steps": 2}}


@pytest.fixture
def engine(tiny_teacher) -> FastEngine:
    config = SynthesisConfig(
        method="generator",
        num_images=16,
        batch_size=8,
        steps=2,
        generator_width=4,
        latent_size=4,
        meta_batches=4,
        precision="float32",
    )
    return FastEngine(tiny_teacher, config.resolve((3, 8, 8)), CPU)


def same(first: Start, second: Start) -> bool:
    def tensors(start: Start) -> list[torch.Tensor]:
        return [*start.weights, *(each for pair in start.stats.moments for each in pair)]

    return first.stats.num_batches == second.stats.num_batches and all(
        torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True)
    )


def some_start(num_batches: int = 3) -> Start:
    moments = ((torch.ones(2), torch.full((2,), 3.0)),)
    stats = StreamStats(moments=moments, num_batches=num_batches)
    return Start(weights=(torch.arange(4.0), torch.zeros(2, 2)), stats=stats)


def test_what_was_written_is_read_by_the_same_run_only(tmp_path):
    file = StartFile(tmp_path / "dreams.h5", RUN)
    assert file.read(CPU) is None
    file.write(some_start())
    found = file.read(CPU)

    assert found is not None
    assert same(found, some_start())
    assert file.path == tmp_path / ".dreams.start.pt"
    assert StartFile(tmp_path / "dreams.h5", {**RUN, "teacher": "other"}).read(CPU) is None


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_damaged_file_is_learned_again(tmp_path, size):
    file = StartFile(tmp_path / "dreams.h5", RUN)
    file.write(some_start())
    os.truncate(file.path, size)

    assert file.read(CPU) is None


def test_removing_twice_is_no_error(tmp_path):
    file = StartFile(tmp_path / "dreams.h5", RUN)
    file.write(some_start())
    file.remove()
    file.remove()

    assert not list(tmp_path.iterdir())


def test_learning_goes_on_where_it_was_interrupted(engine, tmp_path, monkeypatch):
    undisturbed = learn_start(engine, StartFile(tmp_path / "a.h5", RUN))
    monkeypatch.setattr(common_start, "SECONDS_BETWEEN_SAVES", -1.0)
    file = StartFile(tmp_path / "b.h5", RUN)

    def interrupt(report):
        if report.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_start(engine, file, interrupt)
    left = file.read(CPU)
    reports = []
    resumed = learn_start(engine, file, reports.append)

    assert left is not None
    assert left.stats.num_batches == 2
    assert [report.done for report in reports] == [3, 4]
    assert same(resumed, undisturbed)


def test_nothing_is_learned_twice(engine, tmp_path, monkeypatch):
    file = StartFile(tmp_path / "dreams.h5", RUN)
    first = learn_start(engine, file)
    monkeypatch.setattr(FastEngine, "learn", lambda *a: pytest.fail("learned again"))

    assert same(learn_start(engine, file), first)


def test_a_slower_worker_goes_on_from_where_a_faster_one_is(engine, tmp_path, monkeypatch):
    file = StartFile(tmp_path / "dreams.h5", RUN)
    whole = learn_start(engine, StartFile(tmp_path / "other.h5", RUN))
    monkeypatch.setattr(common_start, "SECONDS_BETWEEN_SAVES", -1.0)
    reports = []

    def meanwhile(report):
        reports.append(report.done)
        file.write(whole)

    assert same(learn_start(engine, file, meanwhile), whole)
    assert reports == [1]


def test_without_batches_to_learn_on_the_start_is_the_initial_one(tiny_teacher, tmp_path):
    config = SynthesisConfig(method="generator", meta_batches=0).resolve((3, 8, 8))
    engine = FastEngine(tiny_teacher, config, CPU)
    file = StartFile(tmp_path / "dreams.h5", RUN)

    assert same(learn_start(engine, file), engine.initial)
    assert not file.path.exists()
