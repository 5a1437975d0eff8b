"""Batches are as large as usual, or as memory allows; and one set has one size."""

import dataclasses
from pathlib import Path

import pytest
import torch
from dreamset_fixtures import write_dream_set

from dreamforge import api
from dreamforge import batch_size as module
from dreamforge import engine as engine_module
from dreamforge.batch_size import (
    fitting_batch_size,
    recorded_batch_size,
    settle_batch_size,
    with_smaller_batches,
)
from dreamforge.cli import main
from dreamforge.config import SynthesisConfig
from dreamforge.estimate import step_num_bytes
from dreamforge.forge import SynthesisResult, synthesize
from shared.dreamset import DreamSet
from shared.errors import OutOfMemoryError
from shared.shards import read_index

CPU = torch.device("cpu")


@pytest.fixture
def anything() -> SynthesisConfig:
    """A config that leaves the batch size open; usually it is 256."""
    return SynthesisConfig(num_images=1000, steps=2, precision="float32")


@pytest.fixture
def memory(tiny_teacher, anything, monkeypatch):
    """Say how many images of a batch all of the free memory would hold."""
    per_image = step_num_bytes(tiny_teacher, anything, CPU)

    def set_free(num_images: float) -> None:
        monkeypatch.setattr(module, "num_bytes_free", lambda device: int(num_images * per_image))

    return set_free


@pytest.mark.parametrize(
    ("num_images", "expected"), [(10_000, 256), (512, 256), (511, 128), (128, 64), (5, 2), (0, 2)]
)
def test_half_of_the_memory_is_filled_with_a_power_of_two(
    tiny_teacher, anything, memory, num_images, expected
):
    memory(num_images)

    assert fitting_batch_size(tiny_teacher, anything, CPU) == expected


def test_processes_share_the_memory(tiny_teacher, anything, memory):
    memory(512)

    assert fitting_batch_size(tiny_teacher, anything, CPU, num_sharing=4) == 64


def test_a_small_set_is_one_batch_whatever_a_power_of_two_would_be(tiny_teacher, anything, memory):
    memory(10_000)
    few = dataclasses.replace(anything, num_images=100)

    assert fitting_batch_size(tiny_teacher, few, CPU) == 100


def test_opponents_need_memory_too(tiny_teacher, anything):
    adaptive = dataclasses.replace(anything, method="adaptive", opponent_sparsity="0.5,0.9")

    assert step_num_bytes(tiny_teacher, adaptive, CPU) == 3 * step_num_bytes(
        tiny_teacher, anything, CPU
    )


def test_a_given_size_stands_and_a_lowered_one_is_noted(
    tiny_teacher, anything, memory, tmp_path: Path
):
    memory(128)
    out = tmp_path / "d.h5"
    given = dataclasses.replace(anything, batch_size=200)

    assert settle_batch_size(tiny_teacher, given, CPU, out) == (given, "")
    config, note = settle_batch_size(tiny_teacher, anything, CPU, out)
    assert config.batch_size == 64
    assert note == "batches of 64 instead of 256, to fit into memory"


def test_workers_that_choose_for_themselves_choose_the_same(
    tiny_teacher, anything, memory, tmp_path: Path
):
    memory(8)
    config, note = settle_batch_size(tiny_teacher, anything, CPU, tmp_path / "d.h5", apart=True)

    assert (config, note) == (anything, "")


@pytest.mark.parametrize("finished", [True, False])
def test_whoever_continues_takes_the_recorded_size(
    tiny_teacher, anything, memory, tmp_path: Path, finished: bool
):
    out = tmp_path / "dreams.h5"
    begun = SynthesisConfig(num_images=24, batch_size=8, shard_size=8, steps=2, precision="float32")
    synthesize(tiny_teacher, begun, out, CPU)
    if not finished:
        out.unlink()
        (tmp_path / "dreams-00000-of-00003.h5").write_bytes(b"damaged")
    memory(10_000)

    assert recorded_batch_size(out, tiny_teacher, 24) == 8
    config, note = settle_batch_size(tiny_teacher, anything, CPU, out)
    assert config.batch_size == 8
    assert "was begun" in note


def test_a_set_that_is_thrown_away_decides_nothing(tiny_teacher, anything, memory, tmp_path: Path):
    out = tmp_path / "dreams.h5"
    begun = SynthesisConfig(num_images=24, batch_size=8, shard_size=8, steps=2, precision="float32")
    synthesize(tiny_teacher, begun, out, CPU)
    memory(10_000)

    config, note = settle_batch_size(tiny_teacher, anything, CPU, out, overwrite=True)
    assert (config.batch_size, note) == (256, "")


@pytest.mark.parametrize("size", [2**40, 101, 1, "8", None, True])
def test_impossible_sizes_are_not_taken(tiny_teacher, tmp_path: Path, size: object):
    index = write_dream_set(tmp_path, spec=tiny_teacher.spec, synthesis={"batch_size": size})

    assert recorded_batch_size(index, tiny_teacher, 100) is None


def test_the_size_of_another_teachers_set_is_not_taken(tiny_teacher, tmp_path: Path):
    spec = dataclasses.replace(tiny_teacher.spec, fingerprint="cd" * 32)
    index = write_dream_set(tmp_path, spec=spec, synthesis={"batch_size": 8})

    assert recorded_batch_size(index, tiny_teacher, 24) is None


def test_nothing_is_recorded_in_an_empty_folder_and_in_foreign_files(tiny_teacher, tmp_path: Path):
    assert recorded_batch_size(tmp_path / "d.h5", tiny_teacher, 24) is None
    (tmp_path / "d-00000-of-00003.h5").write_bytes(b"something")
    (tmp_path / "d.h5").write_bytes(b"else")

    assert recorded_batch_size(tmp_path / "d.h5", tiny_teacher, 24) is None


# Out of memory.


@pytest.fixture
def fragile(anything, tiny_teacher, tmp_path: Path):
    """A run that fails above a batch size, and the sizes it was tried with."""
    tried: list[int] = []

    def attempt(most: int, *, error: Exception | None = None, **facts):
        def run(config: SynthesisConfig) -> SynthesisResult:
            tried.append(config.batch_size or 0)
            if tried[-1] > most:
                raise error or RuntimeError("[..] DefaultCPUAllocator: can't allocate memory")
            return SynthesisResult(
                out=tmp_path / "d.h5",
                num_images=config.num_images,
                num_shards=1,
                num_made=1,
                seconds=0,
                finished=True,
                quality={},
                notes=("as it goes",),
            )

        facts = {"may_lower": True} | facts
        return with_smaller_batches(run, tiny_teacher, anything, tmp_path / "d.h5", **facts)

    return attempt, tried


def test_the_batch_is_halved_until_it_fits_and_that_is_said(fragile):
    attempt, tried = fragile
    result = attempt(64)

    assert tried == [256, 128, 64]
    assert result.notes == (
        "out of memory with batches of 128: made with batches of 64",
        "as it goes",
    )


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("in a child")])
def test_every_kind_of_memory_counts(fragile, error):
    attempt, tried = fragile
    attempt(128, error=error)

    assert tried == [256, 128]


def test_other_errors_go_through(fragile):
    attempt, tried = fragile
    with pytest.raises(RuntimeError, match="a bug"):
        attempt(1, error=RuntimeError("a bug"))
    assert tried == [256]


def test_not_below_two_and_not_where_others_count_on_it(fragile):
    attempt, tried = fragile
    with pytest.raises(OutOfMemoryError, match="batches of 2: lower --batch-size"):
        attempt(1)
    assert tried[-1] == 2
    with pytest.raises(OutOfMemoryError, match="batches of 256: lower --batch-size"):
        attempt(1, may_lower=False)
    assert tried[-1] == 256


def test_not_once_a_shard_is_made(fragile, anything, tmp_path: Path):
    from dreamforge.plan import plan_shards

    plan_shards(anything.resolve((3, 8, 8)), tmp_path / "d.h5")[1].path.write_bytes(b"")
    attempt, tried = fragile
    with pytest.raises(OutOfMemoryError, match=r"and 1 shards are made of such.*--overwrite"):
        attempt(64)
    assert tried == [256]


# On the command line.


@pytest.fixture
def synth(runner, teacher_file, tmp_path: Path):
    def run(*arguments: str):
        words = ["--n", "32", "--steps", "2", "--precision", "float32", "--device", "cpu"]
        out = ["--out", str(tmp_path / "d.h5")]
        return runner.invoke(
            main, ["synth", "--teacher", str(teacher_file), *words, *out, *arguments]
        )

    return run


def test_a_run_that_does_not_fit_records_what_did(synth, tmp_path, monkeypatch):
    balanced_targets = engine_module.balanced_targets

    def too_large(num_classes: int, seed: int, start: int, stop: int):
        if stop - start > 8:
            raise RuntimeError("[..] DefaultCPUAllocator: can't allocate memory")
        return balanced_targets(num_classes, seed, start, stop)

    monkeypatch.setattr(engine_module, "balanced_targets", too_large)
    done = synth()

    assert done.exit_code == 0, done.output
    assert "note: out of memory with batches of 16: made with batches of 8" in done.stderr
    assert read_index(tmp_path / "d.h5").manifest.synthesis["batch_size"] == 8
    assert DreamSet.open(tmp_path / "d.h5").read(0, 32).batch.unique().numel() == 4
    again = synth("--batch-size", "auto")
    assert again.exit_code == 0, again.output
    assert "already finished" in again.stdout
    refused = synth("--batch-size", "16")
    assert "batch_size was 8, now 16" in refused.stderr


def test_auto_undoes_a_presets_size(synth):
    import json

    plan = json.loads(
        synth(
            "--preset", "tripurwar2025", "--batch-size", "auto", "--estimate", "--json", "--n", "50"
        ).stdout
    )
    assert plan["config"]["batch_size"] == 50


def test_overwrite_makes_what_an_empty_place_gets(synth, tmp_path: Path):
    synth("--batch-size", "8")

    assert synth("--overwrite").exit_code == 0

    assert read_index(tmp_path / "d.h5").manifest.synthesis["batch_size"] == 32


@pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")
def test_overwrite_from_python_likewise(tiny_teacher, tmp_path: Path):
    settings = {"num_images": 8, "steps": 1, "precision": "float32", "device": "cpu"}
    facts = {"image_size": 8, "mean": 0.5, "std": 0.25, "progress": False}
    for more in ({"batch_size": 4}, {"overwrite": True}):
        made = api.synth(tiny_teacher.network, tmp_path / "d.h5", **settings, **facts, **more)

    assert made.manifest.synthesis["batch_size"] == 8
