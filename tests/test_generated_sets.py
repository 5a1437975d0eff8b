"""`--method generator` through the forge: the same bytes, however a set came to be."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dreamforge import common_start, forge
from dreamforge.cli import main
from dreamforge.config import SynthesisConfig
from dreamforge.fast_engine import FastEngine
from dreamforge.forge import synthesize
from dreamforge.shard_stream import ShardStream
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.files import sha256_of
from shared.workers import Worker

CPU = torch.device("cpu")


@pytest.fixture
def config() -> SynthesisConfig:
    """Three shards of two batches of eight."""
    return SynthesisConfig(
        method="generator",
        num_images=48,
        batch_size=8,
        shard_size=16,
        steps=2,
        jitter=1,
        generator_width=4,
        latent_size=4,
        meta_batches=3,
        precision="float32",
    )


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.h5"))}


@pytest.fixture
def undisturbed(tiny_teacher, config, tmp_path) -> dict[str, str]:
    out = tmp_path / "undisturbed" / "dreams.h5"
    synthesize(tiny_teacher, config, out, CPU)
    return digests(out.parent)


def test_a_generated_set_is_a_dream_set_like_any_other(tiny_teacher, config, tmp_path):
    out = tmp_path / "dreams.h5"
    result = synthesize(tiny_teacher, config, out, CPU)
    dreams = DreamSet.open(out)
    rows = dreams.read(0, 48)

    assert (result.num_shards, result.num_made, result.finished) == (3, 3, True)
    assert torch.bincount(dreams.labels).tolist() == [12] * 4
    assert torch.equal(rows.logits, tiny_teacher.logits(rows.images).to(torch.float16))
    assert dreams.manifest.synthesis["method"] == "generator"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(digests(tmp_path))


@pytest.mark.parametrize("batch", [0, 3])  # while the first shard is made, and within the second
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tiny_teacher, config, tmp_path, undisturbed, monkeypatch, batch
):
    out = tmp_path / "dreams.h5"
    original = ShardStream.synthesize

    def interrupted(self, number, *arguments):
        if number == batch:
            raise KeyboardInterrupt
        return original(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardStream, "synthesize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthesize(tiny_teacher, config, out, CPU)
    learned = (tmp_path / ".dreams.start.pt").exists()
    monkeypatch.setattr(FastEngine, "learn", lambda *a: pytest.fail("learned again"))
    synthesize(tiny_teacher, config, out, CPU)

    assert learned
    assert digests(tmp_path) == undisturbed


def test_an_interruption_before_the_first_shard_costs_a_few_batches(
    tiny_teacher, config, tmp_path, undisturbed, monkeypatch
):
    out = tmp_path / "dreams.h5"
    monkeypatch.setattr(common_start, "SECONDS_BETWEEN_SAVES", -1.0)

    def interrupt(report):
        if report.stage == "learn the start" and report.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tiny_teacher, config, out, CPU, progress=interrupt)
    synthesize(tiny_teacher, config, out, CPU)

    assert digests(tmp_path) == undisturbed


def test_two_workers_in_any_order_make_the_same_bytes(tiny_teacher, config, tmp_path, undisturbed):
    out = tmp_path / "workers" / "dreams.h5"
    results = [
        synthesize(tiny_teacher, config, out, CPU, worker=Worker(index=index, count=2))
        for index in (1, 0)
    ]

    assert [result.num_made for result in results] == [1, 2]
    assert digests(out.parent) == undisturbed
    assert not (out.parent / ".dreams.start.pt").exists()


def test_a_lost_shard_is_made_again_after_the_start_is_gone(
    tiny_teacher, config, tmp_path, undisturbed
):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, config, out, CPU)
    (tmp_path / "dreams-00001-of-00003.h5").unlink()
    result = synthesize(tiny_teacher, config, out, CPU)

    assert result.num_made == 1
    assert digests(tmp_path) == undisturbed


def test_a_finished_set_needs_no_start(tiny_teacher, config, tmp_path, monkeypatch):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, config, out, CPU)
    monkeypatch.setattr(forge, "shard_engines", lambda *a: pytest.fail("nothing is to be made"))

    assert synthesize(tiny_teacher, config, out, CPU).num_made == 0


def test_a_set_of_the_other_method_is_refused_by_name(tiny_teacher, config, tmp_path):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, config, out, CPU)
    inversion = SynthesisConfig(num_images=48, batch_size=8, shard_size=16, steps=2)

    with pytest.raises(IncompatibleError, match="begun with other arguments"):
        synthesize(tiny_teacher, inversion, out, CPU)
    with pytest.raises(IncompatibleError, match=r"outer_rate was 0\.5, now 0\.25"):
        synthesize(tiny_teacher, dataclasses.replace(config, outer_rate=0.25), out, CPU)


def test_the_command_line_makes_one(runner, teacher_file, tmp_path):
    out = tmp_path / "dreams.h5"
    command = ["synth", "--teacher", str(teacher_file), "--out", str(out), "--n", "16"]
    command += ["--method", "generator", "--steps", "2", "--meta-batches", "1"]
    result = runner.invoke(main, command)

    assert result.exit_code == 0, result.output
    assert "learn the start: 1/1 batches" in result.stderr
    assert DreamSet.open(out).num_images == 16


def test_the_command_line_refuses_options_of_another_method(runner, teacher_file, tmp_path):
    command = ["synth", "--teacher", str(teacher_file), "--out", str(tmp_path / "dreams.h5")]
    result = runner.invoke(main, [*command, "--method", "generator", "--lr", "0.2"])

    assert result.exit_code == 2
    assert "--lr: found 0.2 with --method generator" in result.stderr
    assert not list(tmp_path.iterdir())
