import copy
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import blobs
from dreamset_fixtures import tiny_spec
from recover_fixtures import odd_network, quick_config, run_to_the_end
from torch import nn

from recover.config import RecoverConfig
from recover.course import take_steps
from recover.distill import Distillation, augment
from recover.importance import magnitudes, prunable_weights
from recover.interrupt import interrupts_deferred
from recover.journal import Journal
from recover.masks import dense_masks, global_masks
from shared.errors import DreamforgeError
from shared.feed import TensorFeed
from shared.files import UnwritableError
from shared.layout import settle_layout
from shared.progress import Progress
from shared.teacher import Teacher

CPU = torch.device("cpu")


def start(teacher: Teacher, config: RecoverConfig) -> Distillation:
    config = config.resolve(teacher.spec.image_shape)
    images, labels = blobs(64, seed=2)
    student = copy.deepcopy(teacher.network)
    masks = dense_masks(student)
    if config.schedule == "one-shot":
        masks = global_masks(magnitudes(student), config.sparsity)
        masks.apply(student)
    return Distillation(
        student=student,
        teacher=teacher,
        feed=TensorFeed(images, labels, config.batch_size, CPU, config.seed),
        config=config,
        device=CPU,
        masks=masks,
    )


def test_the_pruned_weights_of_a_gradual_run_end_at_the_exact_count(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    config = quick_config(sparsity=0.9, weight_decay=0.1)
    run = start(tiny_teacher, config)

    run_to_the_end(run, tmp_path)

    zeros = sum(int((w == 0).sum()) for w in prunable_weights(run.student).values())
    assert zeros == run.masks.num_weights - run.masks.num_kept
    assert run.masks.num_kept == round(0.1 * run.masks.num_weights)


def test_pruned_weights_stay_pruned_while_the_sparsity_grows(tiny_teacher: Teacher) -> None:
    config = quick_config(prune_every=1, prune_end=1.0)
    run = start(tiny_teacher, config)
    before = run.masks

    for _ in range(config.steps):
        run.advance()
        for name, mask in run.masks.kept.items():
            assert not (mask & ~before.kept[name]).any()
        before = run.masks


@pytest.mark.parametrize("schedule", ["gradual", "one-shot"])
def test_teaching_lowers_the_loss(tiny_teacher: Teacher, tmp_path: Path, schedule: str) -> None:
    config = quick_config(sparsity=0.5, schedule=schedule, steps=100, lr=0.02)
    run = start(tiny_teacher, config)

    run_to_the_end(run, tmp_path)

    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [50, 100]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert rows[1]["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_the_teacher_is_unchanged_and_no_hook_is_left(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    before = copy.deepcopy(tiny_teacher.network.state_dict())
    config = quick_config()
    run = start(tiny_teacher, config)

    run_to_the_end(run, tmp_path)

    after = tiny_teacher.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(weight.requires_grad for weight in tiny_teacher.network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.student.modules())


def test_frozen_batch_norm_keeps_its_statistics(tiny_teacher: Teacher, tmp_path: Path) -> None:
    statistics = {
        name: value.clone()
        for name, value in tiny_teacher.network.state_dict().items()
        if "running" in name
    }
    for bn_mode, same in (("frozen", True), ("train", False)):
        config = quick_config(bn_mode=bn_mode, schedule="one-shot", sparsity=0.3, lr=1e-3)
        run = start(tiny_teacher, config)
        run_to_the_end(run, tmp_path)
        now = run.student.state_dict()
        assert all(torch.equal(now[name], value) for name, value in statistics.items()) is same


def test_the_unscaled_loss_is_smaller_by_the_square_of_the_temperature(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    losses = []
    for scale_loss in (True, False):
        config = quick_config(
            schedule="one-shot", scale_loss=scale_loss, temperature=3.0, feature_weight=0.0
        )
        run = start(tiny_teacher, config)
        run.advance()
        losses.append(run.row()["loss"])

    assert losses[0] == pytest.approx(9 * losses[1])


@pytest.mark.parametrize("stop", [1, 5, 11])
@pytest.mark.parametrize(
    "changes",
    [
        *({"mix": "cutmix"}, {"importance": "fisher"}),
        {"channels": 0.5, "sparsity": 0.0, "ema": 0.9},
        {"channels": 0.5, "sparsity": 0.0, "importance": "fisher"},
    ],
    ids=str,
)
def test_a_restored_run_ends_with_the_bits_of_an_uninterrupted_one(
    tiny_teacher: Teacher, tmp_path: Path, stop: int, changes: dict[str, Any]
) -> None:
    config = quick_config(**{"mix": "none", **changes}, flip=True, weight_decay=0.01)
    whole = start(tiny_teacher, config)
    run_to_the_end(whole, tmp_path)

    first = start(tiny_teacher, config)
    for _ in range(stop):
        first.advance()
    second = start(tiny_teacher, config)
    second.restore(copy.deepcopy(first.state()))
    run_to_the_end(second, tmp_path)

    expected = whole.student.state_dict()
    assert all(torch.equal(expected[k], v) for k, v in second.student.state_dict().items())
    average = whole.taught.state_dict()
    assert all(torch.equal(average[k], v) for k, v in second.taught.state_dict().items())
    second.masks.check(second.student)


def test_fisher_keeps_what_the_loss_answers_to(tiny_teacher: Teacher, tmp_path: Path) -> None:
    config = quick_config(importance="fisher", sparsity=0.9)
    run, plain = start(tiny_teacher, config), start(tiny_teacher, quick_config(sparsity=0.9))

    run_to_the_end(run, tmp_path)
    run_to_the_end(plain, tmp_path)

    run.masks.check(run.student)
    assert run.masks.num_kept == plain.masks.num_kept
    assert any(
        not torch.equal(mask, plain.masks.kept[name]) for name, mask in run.masks.kept.items()
    )


def test_unusual_layers_are_taught_and_stay_pruned() -> None:
    network = odd_network()
    config = quick_config(sparsity=0.8, weight_decay=0.1, bn_mode="train")
    images, labels = blobs(32)
    teacher = Teacher(network=copy.deepcopy(network), spec=tiny_spec())
    run = Distillation(
        student=network,
        teacher=teacher,
        feed=TensorFeed(images, labels, 16, CPU, 0),
        config=config,
        device=CPU,
        masks=dense_masks(network),
    )

    for _ in range(config.steps):
        run.advance()

    run.masks.check(network)
    assert network.second.weight is network.first.weight


@pytest.mark.parametrize("mode", ["train", "frozen"])
def test_a_network_that_views_its_features_is_taught(mode: str) -> None:
    class Viewing(nn.Sequential):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            features = self[1](self[0](inputs)).relu()
            return self[2](features.view(features.size(0), -1))

    torch.manual_seed(0)
    spec = tiny_spec()
    width = 4 * spec.image_shape[1] * spec.image_shape[2]
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(width, spec.num_classes)]
    network = Viewing(*layers).eval()
    settle_layout(network, spec.image_shape)
    run = start(Teacher(network=network, spec=spec), quick_config(sparsity=0.5, bn_mode=mode))

    for _ in range(3):
        run.advance()

    assert run.row()["loss"] > 0


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    config = quick_config(lr=1e20, warmup=0.0)

    with pytest.raises(DreamforgeError, match="is not finite; lower --lr"):
        run_to_the_end(start(tiny_teacher, config), tmp_path)


def test_augmentation_depends_on_seed_and_step_alone() -> None:
    images, _ = blobs(8)
    config = quick_config(mix="cutmix", flip=True, shift=2)

    assert torch.equal(augment(images, config, 3), augment(images, config, 3))
    assert not torch.equal(augment(images, config, 3), augment(images, config, 4))
    assert torch.equal(augment(images, quick_config(shift=0), 3), images)


def test_a_signal_waits_for_the_end_of_the_step_and_leaves_a_checkpoint(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    config = quick_config()
    run = start(tiny_teacher, config)
    saved: list[int] = []
    advance = run.advance

    def interrupted_advance() -> None:
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        advance()

    run.advance = interrupted_advance  # type: ignore[method-assign]
    handler = signal.getsignal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(run, tmp_path, saved)

    assert saved == [5]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_second_signal_interrupts_at_once() -> None:
    with interrupts_deferred() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_progress_ends_at_the_last_step(tiny_teacher: Teacher, tmp_path: Path) -> None:
    config = quick_config()
    reports: list[Progress] = []

    take_steps(
        start(tiny_teacher, config),
        journal=Journal(tmp_path / "metrics.jsonl"),
        save=lambda run: None,
        progress=reports.append,
    )

    assert (reports[-1].done, reports[-1].total) == (12, 12)
    assert reports[-1].facts["loss"] > 0


def test_the_journal_forgets_rows_after_the_step_it_goes_back_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in (50, 100, 150):
        journal.add({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2')  # cut off by a kill

    journal.rewind(100)
    journal.add({"step": 150})

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 100, 150]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_row_that_finds_no_room_names_the_file() -> None:
    with pytest.raises(UnwritableError) as found:
        Journal(Path("/dev/full")).add({"step": 1, "loss": 1.0})
    assert found.value.filename == "/dev/full"
