import copy
import dataclasses

import pytest
import torch
from conftest import blobs
from torch import nn

from dreamforge.engine import Engine
from dreamforge.forge import synthesize
from dreamforge.objective import competition
from dreamforge.opponents import Opponents, estimate_statistics, make_opponents
from shared.errors import IncompatibleError
from shared.images import to_pixels
from shared.magnitude import prunable_weights
from shared.shards import read_index
from shared.workers import Worker

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny_config):
    return dataclasses.replace(tiny_config, method="adaptive", opponent_sparsity="0.5,0.9")


def answers(opponents, teacher):
    images, _ = blobs(64, seed=1)
    with torch.no_grad():
        return opponents.logits(teacher.normalize(to_pixels(images)))


def test_opponents_are_the_teacher_at_the_sparsities_asked_for(tiny_teacher, config):
    opponents = make_opponents(tiny_teacher, config, CPU)

    assert len(opponents) == 2
    for network, sparsity in zip(opponents._networks, (0.5, 0.9), strict=True):
        weights = prunable_weights(network).values()
        num_weights = sum(weight.numel() for weight in weights)
        num_kept = sum(int(weight.count_nonzero()) for weight in weights)
        assert num_kept == round((1 - sparsity) * num_weights)


def test_every_worker_makes_the_same_opponents_whatever_it_made_before(tiny_teacher, config):
    first = answers(make_opponents(tiny_teacher, config, CPU), tiny_teacher)
    torch.rand(7)
    again = answers(make_opponents(tiny_teacher, config, CPU), tiny_teacher)
    other = dataclasses.replace(config, seed=1)
    others = answers(make_opponents(tiny_teacher, other, CPU), tiny_teacher)

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))


def test_the_teacher_is_left_alone(tiny_teacher, config):
    before = {name: value.clone() for name, value in tiny_teacher.network.state_dict().items()}
    make_opponents(tiny_teacher, config, CPU)

    after = tiny_teacher.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in tiny_teacher.network.modules())


def test_the_plain_batch_is_reported(tiny_teacher, config):
    reports = []
    make_opponents(tiny_teacher, config, CPU, reports.append)

    assert (reports[-1].stage, reports[-1].done, reports[-1].total) == ("opponents", 8, 8)


def test_the_repair_undoes_what_shrinks_every_activation(tiny_teacher):
    """What BatchNorm makes of its input does not depend on the input's scale."""
    images, _ = blobs(64, seed=1)
    inputs = tiny_teacher.normalize(to_pixels(images))
    whole, shrunk = (copy.deepcopy(tiny_teacher.network) for _ in range(2))
    for module in shrunk.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(0.5)
    damaged = shrunk(inputs)
    for network in (whole, shrunk):
        estimate_statistics(network, inputs)

    assert not torch.allclose(damaged, whole(inputs), atol=0.5)
    assert torch.allclose(shrunk(inputs), whole(inputs), atol=0.01)


def test_statistics_are_those_that_each_layer_sees_behind_the_repaired_ones():
    first, second = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    with torch.no_grad():
        first.weight.fill_(3.0)
        first.bias.fill_(7.0)
    network = nn.Sequential(first, nn.Dropout(), second).eval()
    inputs = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(2, 1, 1, 2)
    estimate_statistics(network, inputs)

    # Mean 3; squared deviations 9 + 1 + 1 + 9, over n - 1 as a BatchNorm remembers it.
    assert (first.running_mean.item(), first.running_var.item()) == pytest.approx((3, 20 / 3))
    assert second.running_mean.item() == pytest.approx(7)  # what the first shifts to
    assert second.running_var.item() == pytest.approx(9 * 4 / 3, rel=1e-4)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_answers_are_the_networks_and_gradients_reach_the_inputs_alone(
    tiny_teacher, dtype, tolerance
):
    images, _ = blobs(16)
    inputs = tiny_teacher.normalize(to_pixels(images)).requires_grad_()
    opponents = Opponents([tiny_teacher.network], CPU, dtype)
    (found,) = opponents.logits(inputs)
    expected = tiny_teacher.logits(images)
    (gradient,) = torch.autograd.grad(found.float().square().sum(), inputs)

    scale = expected.abs().max().item()
    assert (found.float() - expected).abs().max() <= tolerance * scale
    assert gradient.abs().sum() > 0
    assert not any(p.requires_grad for n in opponents._networks for p in n.parameters())


def test_adaptive_dreams_are_where_the_opponents_differ(tiny_teacher, config):
    # No mirror: it turns one of this teacher's classes into another.
    config = dataclasses.replace(
        config,
        steps=40,
        jitter=0,
        flip=False,
        num_images=32,
        batch_size=32,
        opponent_sparsity="0.9",
        competition_weight=10.0,
    )
    opponents = make_opponents(tiny_teacher, config, CPU)
    agreements = []
    for answers_of in (None, opponents.logits):
        dreams = Engine(tiny_teacher, config, CPU, answers_of).synthesize(0, 0, 32).dreams
        inputs = tiny_teacher.normalize(to_pixels(dreams.images))
        logits = tiny_teacher.logits(dreams.images)
        with torch.no_grad():
            (others,) = opponents.logits(inputs)
        agreements.append(competition(logits, others, config.opponent_temperature).item())
        assert (logits.argmax(1) == dreams.labels).float().mean() > 0.9

    plain, adaptive = agreements
    assert 1 - adaptive > 2 * (1 - plain)


def test_workers_that_make_opponents_of_their_own_make_one_set(tiny_teacher, config, tmp_path):
    alone, shared = tmp_path / "alone" / "dreams.h5", tmp_path / "shared" / "dreams.h5"
    synthesize(tiny_teacher, config, alone, CPU)
    for index in (1, 0):
        synthesize(tiny_teacher, config, shared, CPU, worker=Worker(index=index, count=2))

    files = sorted(path.name for path in alone.parent.iterdir())
    assert files == sorted(path.name for path in shared.parent.iterdir())
    for name in files:
        assert (alone.parent / name).read_bytes() == (shared.parent / name).read_bytes(), name
    assert read_index(alone).manifest.synthesis["opponent_sparsity"] == "0.5,0.9"


def test_a_set_made_against_opponents_is_not_continued_without(tiny_teacher, config, tmp_path):
    synthesize(tiny_teacher, config, tmp_path / "dreams.h5", CPU)
    others = dataclasses.replace(config, opponent_sparsity="0.5")

    with pytest.raises(IncompatibleError, match=r"opponent_sparsity was 0\.5,0\.9, now 0\.5"):
        synthesize(tiny_teacher, others, tmp_path / "dreams.h5", CPU)


@pytest.mark.parametrize("targets", ["soft", "pairs"])
def test_softened_targets_keep_their_labels_and_change_the_dreams(
    tiny_teacher, tiny_config, targets
):
    config = dataclasses.replace(tiny_config, targets=targets).resolve((3, 8, 8))
    hard = Engine(tiny_teacher, tiny_config, CPU).synthesize(1, 8, 16).dreams
    dreams = Engine(tiny_teacher, config, CPU).synthesize(1, 8, 16).dreams

    assert torch.equal(dreams.labels, hard.labels)
    assert not torch.equal(dreams.images, hard.images)
