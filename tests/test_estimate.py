import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from dreamforge import estimate as module
from dreamforge.config import SynthesisConfig
from dreamforge.estimate import STATE_COPIES, activation_num_bytes, estimate
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


def test_time_and_disk_grow_with_the_number_of_dreams_and_memory_does_not(
    small_teacher, monkeypatch
):
    monkeypatch.setattr(module, "_time_steps", lambda *_: 0.5)
    small, large = (estimate(small_teacher, config_of(n), CPU) for n in (16, 160))

    # 16 dreams in batches of 8 are 2 batches of 4 steps of half a second.
    assert small["hours"] == pytest.approx(2 * 4 * 0.5 / 3600)
    assert small["image_steps_per_second"] == 16
    # A row: pixels, two float16 logits, int64 label, int32 batch, float32 loss.
    assert small["num_bytes_on_disk"] == 16 * (NUM_PIXELS + 2 * 2 + 8 + 4 + 4)
    for name in ("hours", "hours_on_8_devices", "num_bytes_on_disk"):
        assert large[name] == pytest.approx(10 * small[name])
    assert large["num_bytes_in_memory"] == small["num_bytes_in_memory"]
    assert small["hours_on_8_devices"] == small["hours"] / 8


def test_steps_are_timed_with_what_fits(small_teacher, monkeypatch):
    timed = []
    monkeypatch.setattr(module, "_time_steps", lambda _, config, __: timed.append(config) or 1.0)
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
        "num_bytes_free",
        "timed_batch_size",
        "image_steps_per_second",
        "hours",
        "hours_on_8_devices",
    }
    assert all(value > 0 for value in costs.values())
    assert not list(tmp_path.iterdir())
    after = small_teacher.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
