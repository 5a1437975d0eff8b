"""The comparison in benchmarks/bench_synthesis.py is fair: both loops walk the same path."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from bench_synthesis import PlainLoop, roofline, seconds_to

from dreamforge import engine as engine_module
from dreamforge.engine import Engine

CPU = torch.device("cpu")


def test_the_plain_loop_and_the_engine_have_the_same_losses(tiny_teacher, tiny_config, monkeypatch):
    config = dataclasses.replace(
        tiny_config, num_images=8, compile="off", space="pixels", jitter_kind="roll"
    )
    config = config.resolve((3, 8, 8))
    monkeypatch.setattr(engine_module, "SECONDS_BETWEEN_READS", -1.0)
    plain, ours = [], []
    Engine(tiny_teacher, config, CPU).rehearse(8, lambda step, terms: ours.append(terms["bn"]))
    copied = dataclasses.replace(tiny_teacher)
    PlainLoop(copied, config, CPU).run(8, lambda step, terms: plain.append(terms["bn"]))
    tiny_teacher.network.requires_grad_(False)

    assert len(plain) == len(ours) == config.steps
    assert plain == pytest.approx(ours, rel=1e-3)


def test_flops_of_a_step_are_those_of_two_forward_passes(tiny_teacher, tiny_config, monkeypatch):
    """Forward, and backward to the inputs alone: the same products once more."""
    monkeypatch.setattr("bench_synthesis.best_flops", lambda *a: 1.0)
    monkeypatch.setattr("bench_synthesis.best_bandwidth", lambda *a: 1.0)
    found = roofline(tiny_teacher, tiny_config, CPU)
    macs = 64 * 16 * 9 * (3 + 16 + 16) + 16 * 32 * 9 * (16 + 32) + 4 * 64 * 9 * (32 + 64) + 64 * 4

    assert found["flops"] == pytest.approx(2 * 2 * macs, rel=0.01)


def test_time_to_a_distance_is_that_of_the_first_step_below_it():
    curve = [(1.0, 0.5), (2.0, 0.2), (3.0, 0.3), (4.0, 0.1)]

    assert seconds_to(curve, 0.25) == 2.0
    assert seconds_to(curve, 0.05) is None
