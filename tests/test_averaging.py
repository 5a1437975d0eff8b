from pathlib import Path

import pytest
import safetensors.torch
import torch
from recover_fixtures import begin_distillation, blob_dreams, odd_network, quick_config
from torch import nn

from recover.averaging import RunningAverage, decay_at
from recover.importance import magnitudes, prunable_weights
from recover.masks import global_masks
from recover.pipeline import recover_student
from shared.errors import ConfigError
from shared.progress import Progress
from shared.teacher import Teacher


def constant(value: float) -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.detach().fill_(value)
    return network


def test_the_decay_grows_to_what_was_asked_for() -> None:
    assert decay_at(0.9, 0) == 0.1
    assert decay_at(0.9, 10) == 11 / 20
    assert decay_at(0.9, 80) == 0.9
    assert decay_at(0.9, 10**6) == 0.9


def test_the_average_of_two_steps_is_known() -> None:
    average = RunningAverage(constant(0.0), decay=0.15)

    average.update(constant(1.0), step=0)  # decay 0.1: 0.9
    average.update(constant(2.0), step=1)  # decay 0.15: 0.15 * 0.9 + 0.85 * 2

    for name, value in average.state().items():
        expected = 2.0 if "num_batches" in name else 0.15 * 0.9 + 0.85 * 2
        torch.testing.assert_close(value.float(), torch.full_like(value.float(), expected))


def test_the_average_is_a_network_of_its_own() -> None:
    student = constant(1.0)
    average = RunningAverage(student, decay=0.5)
    student[0].weight.detach().zero_()

    assert torch.equal(average.network[0].weight, torch.ones(2, 2))
    assert not any(weight.requires_grad for weight in average.network.parameters())
    assert student[0].weight.requires_grad


def test_shared_weights_are_averaged_once_and_pruned_together() -> None:
    student = odd_network()
    average = RunningAverage(student, decay=0.5)
    masks = global_masks(magnitudes(student), 0.7)
    masks.apply(student)
    average.prune(masks)

    average.update(student, step=100)

    network = average.network
    assert network.second.weight is network.first.weight
    masks.check(network)
    for name, weight in prunable_weights(network).items():
        assert torch.equal(weight, prunable_weights(student)[name])


def test_pruned_weights_are_zero_in_the_average_at_every_step(tiny_teacher: Teacher) -> None:
    config = quick_config(ema=0.9, prune_every=1, prune_end=1.0, weight_decay=0.1)
    run = begin_distillation(tiny_teacher, config)

    for _ in range(config.steps):
        run.advance()
        assert run.taught is not run.student
        run.masks.check(run.taught)
        run.state()


def test_the_average_does_not_disturb_what_is_averaged(tiny_teacher: Teacher) -> None:
    runs = [begin_distillation(tiny_teacher, quick_config(ema=ema)) for ema in (0.0, 0.9)]
    for run in runs:
        for _ in range(5):
            run.advance()

    plain, averaged = (run.student.state_dict() for run in runs)
    assert all(torch.equal(plain[name], value) for name, value in averaged.items())
    assert runs[0].taught is runs[0].student


def test_a_killed_run_goes_on_with_its_average_and_saves_it(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    dreams = blob_dreams(tmp_path / "dreams", tiny_teacher)
    config = quick_config(ema=0.9, checkpoint_every=1e-9)

    def stop(report: Progress) -> None:
        if (report.stage, report.done) == ("distill", 7):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "parts", stop)
    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "parts")
    recover_student(config, tiny_teacher, dreams, None, tmp_path / "whole")
    recover_student(quick_config(), tiny_teacher, dreams, None, tmp_path / "last")

    parts, whole, last = (
        tmp_path / name / "student.safetensors" for name in ("parts", "whole", "last")
    )
    assert parts.read_bytes() == whole.read_bytes()
    saved, other = safetensors.torch.load_file(parts), safetensors.torch.load_file(last)
    names = prunable_weights(tiny_teacher.network)
    assert sum(int(saved[name].count_nonzero()) for name in names) == report.num_kept
    assert any(not torch.equal(saved[name], other[name]) for name in names)
    assert not torch.equal(saved["bn1.running_mean"], other["bn1.running_mean"])


def test_a_decay_of_one_would_never_learn() -> None:
    with pytest.raises(ConfigError, match=r"--ema: found 1\.0, expected less than 1"):
        quick_config(ema=1.0)
