import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dreamforge import estimate as module
from dreamforge.cli import main
from dreamforge.config import SynthesisConfig
from dreamforge.estimate import STATE_COPIES, activation_num_bytes, estimate
from dreamforge.forge import synthesize
from shared.shards import CHUNK_BYTES
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint

CPU = torch.device("cpu")
# Values that one 3x8x8 image makes in the network below: convolution, BatchNorm and ReLU
# 5 channels of 8x8 each, pooling 5 of 1x1, flattening 5, logits 2.
NUM_ACTIVATIONS = 3 * 5 * 64 + 5 + 5 + 2
NUM_PIXELS = 3 * 64


@pytest.fixture
def small_teacher() -> Teacher:
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    spec = TeacherSpec(
        architecture="by hand",
        num_classes=2,
        image_shape=(3, 8, 8),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        fingerprint=fingerprint(network),
    )
    return Teacher(network=network, spec=spec)


def config_of(num_images: int, **changes) -> SynthesisConfig:
    facts = {"batch_size": 8, "steps": 4, "precision": "float32"} | changes
    return SynthesisConfig(num_images=num_images, **facts).resolve((3, 8, 8))


@pytest.mark.parametrize(("dtype", "num_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_activations_are_counted_as_by_hand(small_teacher, dtype, num_bytes):
    expected = NUM_ACTIVATIONS * num_bytes + STATE_COPIES * NUM_PIXELS * 4

    assert activation_num_bytes(small_teacher, dtype) == expected


def test_a_module_that_is_called_twice_counts_twice(small_teacher):
    once = activation_num_bytes(small_teacher, torch.float32)
    layers = list(small_teacher.network)
    layers.insert(2, layers[2])
    twice = Teacher(network=nn.Sequential(*layers), spec=small_teacher.spec)

    assert activation_num_bytes(twice, torch.float32) - once == 5 * 64 * 4


def test_no_hooks_are_left_also_after_an_error(small_teacher):
    activation_num_bytes(small_teacher, torch.float32)
    wrong = dataclasses.replace(small_teacher.spec, image_shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
    with pytest.raises(RuntimeError):
        activation_num_bytes(Teacher(network=small_teacher.network, spec=wrong), torch.float32)

    assert not any(m._forward_hooks for m in small_teacher.network.modules())


def test_the_parts_of_a_run_add_up_as_by_hand(small_teacher, monkeypatch):
    monkeypatch.setattr(module, "_time_steps", lambda *_: (3.0, 0.5))
    monkeypatch.setattr(module, "_seconds_to_store", lambda *_: 0.25)
    small, large = (
        estimate(small_teacher, config_of(n, shard_size=8), CPU, seconds_to_start=2)
        for n in (16, 160)
    )

    # Batches of 8 are 4 steps of half a second, and about half a step around them; a dream is a
    # quarter of a second to store. 3 seconds of warming up and 2 of starting are paid once.
    assert small["seconds_once"] == 5
    assert small["hours"] * 3600 == pytest.approx(5 + 2 * 4.5 * 0.5 + 16 / 4)
    assert large["hours"] * 3600 == pytest.approx(5 + 20 * 4.5 * 0.5 + 160 / 4)
    assert small["image_steps_per_second"] == 16
    # Eight devices share 2 shards: two have one each. Or 20: some have 3.
    assert small["hours_on_8_devices"] * 3600 == pytest.approx(5 + 4.5 * 0.5 + 8 / 4)
    assert large["hours_on_8_devices"] * 3600 == pytest.approx(5 + 3 * (4.5 * 0.5 + 8 / 4))
    # A row: pixels, two float16 logits, int64 label, int32 batch, float32 loss.
    assert small["num_bytes_on_disk"] == 16 * (NUM_PIXELS + 2 * 2 + 8 + 4 + 4)
    assert large["num_bytes_on_disk"] == 10 * small["num_bytes_on_disk"]
    assert large["num_bytes_in_memory"] == small["num_bytes_in_memory"]


def test_what_a_generator_learns_first_is_paid_once(small_teacher, monkeypatch):
    monkeypatch.setattr(module, "_time_steps", lambda *_: (3.0, 0.5))
    config = config_of(16, method="generator", meta_batches=10)

    assert estimate(small_teacher, config, CPU)["seconds_once"] == pytest.approx(3 + 10 * 4.5 * 0.5)


def test_an_embedded_teacher_takes_its_room(
    tiny_teacher, teacher_file, tiny_config, tmp_path: Path, monkeypatch, runner
):
    monkeypatch.setattr(module, "_time_steps", lambda *_: (0.0, 1.0))
    config = dataclasses.replace(tiny_config, steps=1, num_images=8)
    sizes, planned = [], []
    for more in ([], ["--embed-teacher"]):
        folder = tmp_path / str(len(more))
        synthesize(tiny_teacher, config, folder / "dreams.h5", CPU, embed_teacher=bool(more))
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
        arguments = ["synth", "--teacher", str(teacher_file), "--n", "8", "--dry-run", "--json"]
        shown = runner.invoke(main, [*arguments, "--out", str(tmp_path / "o.h5"), *more])
        planned.append(json.loads(shown.stdout)["num_bytes_on_disk"])

    # Besides names and shapes: the last chunk is stored in full.
    more_planned, more_there = planned[1] - planned[0], sizes[1] - sizes[0]
    assert more_planned < more_there < more_planned + CHUNK_BYTES
    assert planned[1] > 50 * planned[0]  # so it is most of a set this small


class Clock:
    """A clock that a script moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class ScriptedEngine:
    """Takes a time to warm up and the same for each step; it reports as the real one does."""

    def __init__(self, clock: Clock, *, warm_up: float, step: float, between: float) -> None:
        self.clock, self.warm_up, self.step, self.between = clock, warm_up, step, between
        self.steps_done = 0

    def rehearse(self, num_images: int, on_step=None) -> None:
        told = self.clock.now
        for step in range(1000):
            self.clock.now += self.warm_up + self.step
            self.warm_up, self.steps_done = 0.0, self.steps_done + 1
            if on_step and self.clock.now - told > self.between:
                on_step(step + 1, {})
                told = self.clock.now


@pytest.mark.parametrize(
    ("step", "most_steps"), [(0.001, 4000), (0.1, 100), (40.0, 2)], ids=["fast", "usual", "slow"]
)
def test_the_pace_is_that_of_later_steps_and_few_are_done(
    small_teacher, monkeypatch, step, most_steps
):
    clock = Clock()
    engine = ScriptedEngine(clock, warm_up=30.0, step=step, between=1.0)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "rehearsing_engine", lambda *_: engine)
    once, pace = module._time_steps(small_teacher, config_of(16, steps=1000), CPU)

    assert once == pytest.approx(30.0)
    assert pace == pytest.approx(step)
    assert engine.steps_done <= most_steps


def test_steps_are_timed_with_what_fits(small_teacher, monkeypatch):
    timed = []
    monkeypatch.setattr(
        module, "_time_steps", lambda _, config, __: timed.append(config) or (0.0, 1.0)
    )
    per_image = activation_num_bytes(small_teacher, torch.float32)

    for num_free, expected in [(2 * per_image * 100, 64), (2 * per_image * 7, 4), (1, 2)]:
        monkeypatch.setattr(module, "num_bytes_free", lambda _, num_free=num_free: num_free)
        costs = estimate(small_teacher, config_of(128, batch_size=64), CPU)
        assert costs["timed_batch_size"] == timed[-1].batch_size == expected
        assert costs["num_bytes_in_memory"] == 64 * per_image


def test_a_real_estimate_is_positive_complete_and_writes_nothing(
    small_teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before = {name: t.clone() for name, t in small_teacher.network.state_dict().items()}
    costs = estimate(small_teacher, config_of(16), CPU)

    assert set(costs) == {
        "num_bytes_on_disk",
        "num_bytes_in_memory",
        "num_bytes_of_process",
        "num_bytes_free",
        "timed_batch_size",
        "image_steps_per_second",
        "seconds_once",
        "hours",
        "hours_on_8_devices",
    }
    # A network this small costs nothing once where the first of its batches is not the slowest.
    assert costs.pop("seconds_once") >= 0
    assert all(value > 0 for value in costs.values())
    assert not list(tmp_path.iterdir())
    after = small_teacher.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
