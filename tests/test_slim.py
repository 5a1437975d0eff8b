"""Removing channels: which ones, how many, and a run that ends with fewer of them."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs
from dreamset_fixtures import tiny_spec
from numpy.typing import NDArray
from recover_fixtures import (
    begin_distillation,
    blob_dreams,
    features_beside,
    quick_config,
)
from torch import Tensor, nn

from recover.channels import slimming_of
from recover.config import RecoverConfig
from recover.cut import require_flow
from recover.examine import examine_student
from recover.export import load_student
from recover.multiply_adds import count_macs
from recover.pipeline import recover_student
from recover.results import read_report
from recover.schedule import channels_at
from recover.slim import Slimming
from recover.worth import rounded, unit_scores, worth_most
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError
from shared.evaldata import EvalData
from shared.teacher import Teacher, load_teacher

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return blob_dreams(tmp_path_factory.mktemp("dreams"), tiny_teacher)


def slim_config(**changes: object) -> RecoverConfig:
    facts = {"sparsity": 0.0, "channels": 0.5, "importance": "magnitude"}
    return quick_config(**{**facts, **changes})


def chain() -> nn.Sequential:
    """Two convolutions; the first makes four channels."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    ).eval()


def test_the_channels_that_weigh_most_stay() -> None:
    network = chain()
    with torch.no_grad():
        for size, row in zip((3.0, 1.0, 4.0, 2.0), range(4), strict=True):
            network[0].weight[row] = size
            network[2].weight[:, row] = size

    cut = Slimming(network, SHAPE).cut(network, 0.5)

    assert cut.left["0.weight", 0].tolist() == [0, 2] == cut.left["2.weight", 1].tolist()


def test_scores_are_shares_of_every_layer_or_what_the_loss_would_lose() -> None:
    network = chain()
    places = {("0.weight", 0): np.arange(4)[:, None], ("2.weight", 1): np.arange(4)[:, None]}
    rows, columns = network[0].weight.detach().double(), network[2].weight.detach().double()
    made, taken = rows.square().sum((1, 2, 3)), columns.square().sum((0, 2, 3))
    squares = {"0.weight": torch.rand(4, 3, 1, 1), "2.weight": torch.rand(5, 4, 1, 1)}

    shares = unit_scores(network, places)
    losses = unit_scores(network, places, squares)

    assert torch.allclose(shares, made / made.mean() + taken / taken.mean())
    expected = (rows.square() * squares["0.weight"]).sum((1, 2, 3))
    expected += (columns.square() * squares["2.weight"]).sum((0, 2, 3))
    assert torch.allclose(losses, expected)


def test_the_units_worth_most_are_kept_within_the_budget() -> None:
    """Every unit costs one: the budget is a number, and the best of all groups win."""
    worth = [torch.tensor([5.0, 1.0, 3.0]), torch.tensor([4.0, 2.0, 6.0, 0.5])]

    def count(kept: Sequence[NDArray[np.int64]]) -> int:
        return sum(map(len, kept))

    kept = {budget: worth_most(worth, (1, 1), count, budget) for budget in (7, 4, 3, 2, 0)}

    found = {budget: [units.tolist() for units in groups] for budget, groups in kept.items()}
    assert found == {
        7: [[0, 1, 2], [0, 1, 2, 3]],
        4: [[0, 2], [0, 2]],
        3: [[0], [0, 2]],
        2: [[0], [2]],
        0: [[0], [2]],  # what each keeps in any case
    }


def test_by_worth_a_student_computes_no_more_than_with_equal_shares(tiny_teacher: Teacher) -> None:
    image, macs = torch.zeros(1, *SHAPE), {}
    for by_worth in (False, True):
        network = copy.deepcopy(tiny_teacher.network)
        slimming = Slimming(network, SHAPE)
        draws = torch.Generator().manual_seed(0)
        squares = {
            name: torch.rand(p.shape, generator=draws) ** 8
            for name, p in network.named_parameters()
        }
        for fraction in (0.9, 0.6, 0.5):
            cut = slimming.cut(network, fraction, squared_gradients=squares, by_worth=by_worth)
            cut.apply(network)
            squares = {name: cut.of(name, each) for name, each in squares.items()}
        macs[by_worth] = count_macs(network, image)[0]
        shares = [len(u) / len(g) for u, g in zip(slimming.kept, slimming._groups, strict=True)]

    assert 0.9 * macs[False] < macs[True] <= macs[False]
    assert max(shares) > 0.55 > 0.45 > min(shares)
    assert min(shares) > 0.15  # two fifths of the half, in whole channels


@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.5, 0.26, 1e-6])
def test_every_layer_keeps_the_share_and_at_least_one(
    tiny_teacher: Teacher, fraction: float
) -> None:
    network = tiny_teacher.network
    slimming = Slimming(network, SHAPE)
    before = [len(units) for units in slimming.kept]

    slimming.cut(network, fraction)

    assert [len(units) for units in slimming.kept] == [
        max(1, round(fraction * size)) for size in before
    ]


def test_in_several_cuts_what_is_gone_stays_gone_and_positions_stay_true(
    tiny_teacher: Teacher,
) -> None:
    network = copy.deepcopy(tiny_teacher.network)
    slimming = Slimming(network, SHAPE)
    original = {name: tensor.clone() for name, tensor in network.named_parameters()}
    kept = [set(units.tolist()) for units in slimming.kept]

    for fraction in (0.9, 0.7, 0.7, 0.4):
        slimming.cut(network, fraction).apply(network)
        now = [set(units.tolist()) for units in slimming.kept]
        assert all(left <= before for left, before in zip(now, kept, strict=True))
        kept = now

    restored = Slimming(tiny_teacher.network, SHAPE)
    restored.restore(slimming.state())
    assert restored.digest() == slimming.digest()
    for (name, dim), places in restored._left.items():
        if name in original:
            original[name] = original[name].index_select(dim, torch.from_numpy(places))
    assert all(torch.equal(original[name], p) for name, p in network.named_parameters())


def test_what_layers_still_take_in_is_what_the_teachers_features_are_compared_in(
    tiny_teacher: Teacher,
) -> None:
    network = copy.deepcopy(tiny_teacher.network)
    slimming = Slimming(network, SHAPE)
    assert slimming.inputs_left() == {}

    slimming.cut(network, 0.5).apply(network)

    left = slimming.inputs_left()
    before = dict(tiny_teacher.network.named_parameters())
    after = dict(network.named_parameters())
    for name, places in left.items():
        assert len(places) == after[name].shape[1] < before[name].shape[1]
    assert "conv1.weight" not in left  # which takes images
    assert "linear.weight" in left


def test_layers_to_keep_stay_whole(tiny_teacher: Teacher) -> None:
    config = slim_config(keep="layer2.0.conv1.*")
    slimming = slimming_of(tiny_teacher, config)
    assert slimming is not None

    cut = slimming.cut_as_chosen(tiny_teacher.network, config)

    assert not {("layer2.0.conv1.weight", 0), ("layer2.0.conv1.weight", 1)} & cut.left.keys()
    assert ("layer3.0.conv1.weight", 0) in cut.left


def test_chance_is_a_control_that_depends_on_the_seed_alone(tiny_teacher: Teacher) -> None:
    chosen = []
    for seed in (0, 0, 1):
        slimming = Slimming(tiny_teacher.network, SHAPE)
        slimming.cut(tiny_teacher.network, 0.5, seed=seed)
        chosen.append(slimming.digest())

    assert chosen[0] == chosen[1] != chosen[2]


def test_the_curve_starts_at_all_channels_and_ends_at_the_share() -> None:
    config = slim_config(steps=100, prune_end=0.6)
    curve = [channels_at(config, step) for step in range(100)]

    assert curve[0] == 1.0
    assert curve[60:] == [0.5] * 40
    assert curve == sorted(curve, reverse=True)
    assert channels_at(quick_config(), 0) == 1.0
    assert channels_at(slim_config(schedule="one-shot"), 0) == 0.5


@pytest.mark.parametrize("schedule", ["gradual", "one-shot"])
def test_a_run_ends_with_a_smaller_network_that_answers(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, schedule: str
) -> None:
    images, labels = blobs(100, seed=9)
    real = EvalData(images=images, labels=labels)
    config = slim_config(steps=80, lr=0.02, schedule=schedule)

    report = recover_student(config, tiny_teacher, dreams, real, tmp_path / "out")

    student = load_student(tmp_path / "out" / "student.safetensors")
    found, expected = student.classifier.network, tiny_teacher.network
    assert found.conv1.out_channels == 8 == found.bn1.num_features
    assert found.linear.in_features == 32
    assert sum(p.numel() for p in found.parameters()) < 0.3 * sum(
        p.numel() for p in expected.parameters()
    )
    assert report.pruned.accuracy is not None
    assert report.recovered.accuracy is not None
    assert report.recovered.accuracy > max(0.9, report.pruned.accuracy)
    assert report.costs is not None
    assert report.costs.macs_dense < 0.3 * (report.costs.macs_teacher or 0)
    assert report.student == "50 % of channels"
    assert list(report.shown_stages) == ["teacher", "pruned", "repaired", "recovered"]
    assert read_report(tmp_path / "out").student == report.student
    verdict = examine_student(student, None, None, real, "cpu")
    assert verdict.stage.accuracy == report.recovered.accuracy
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_weights"] < 20_000


def test_without_a_step_the_cut_network_is_saved(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    report = recover_student(slim_config(steps=0), tiny_teacher, dreams, None, tmp_path / "out")

    assert report.recovered == report.repaired
    assert report.recovered.agreement != report.pruned.agreement


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1, "feature_weight": 0.0},
        {"steps": 1},
        {"steps": 12, "prune_end": 0.02},
        {"steps": 1, "ema": 0.9},
    ],
    ids=str,
)
def test_a_schedule_that_ends_before_the_first_step_cuts_there(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path, changes: dict[str, object]
) -> None:
    report = recover_student(slim_config(**changes), tiny_teacher, dreams, None, tmp_path)

    shapes = {layer.name: layer.shape for layer in report.layers}
    whole = tiny_teacher.network.state_dict()
    for name in ("conv1.weight", "layer3.0.conv2.weight"):
        assert 2 * shapes[name][0] == whole[name].shape[0]
    network = load_student(tmp_path / "student.safetensors").classifier.network
    assert network.state_dict()["conv1.weight"].shape == shapes["conv1.weight"]


def test_a_student_that_was_not_cut_is_never_saved(tiny_teacher: Teacher) -> None:
    run = begin_distillation(tiny_teacher, slim_config())
    slimming = slimming_of(tiny_teacher, slim_config())
    assert slimming is not None
    slimming.cut_as_chosen(run.student, slim_config())

    with pytest.raises(AssertionError, match="still there"):
        slimming.check(run.student)
    slimming.check_share(slim_config())
    with pytest.raises(AssertionError, match="8 of 16"):
        slimming.check_share(slim_config(channels=0.25))


def test_all_channels_are_the_teacher(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    config = slim_config(channels=1.0, steps=0, repair="none")

    recover_student(config, tiny_teacher, dreams, None, tmp_path / "out")

    student = load_student(tmp_path / "out" / "student.safetensors").classifier
    assert student.spec.fingerprint == tiny_teacher.spec.fingerprint


def test_a_slim_student_is_taught_on_and_inverted_like_any_other(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path
) -> None:
    recover_student(slim_config(), tiny_teacher, dreams, None, tmp_path / "slim")
    file = tmp_path / "slim" / "student.safetensors"

    again = recover_student(
        quick_config(sparsity=0.0, student="resnet8", student_weights=str(file), steps=2),
        *(tiny_teacher, dreams, None, tmp_path / "again"),
    )
    teacher = load_teacher(file)

    assert again.num_weights == load_student(file).facts["num_weights"]
    assert teacher.spec.architecture == "resnet8"
    assert teacher.network.linear.in_features == 32
    assert teacher.spec.image_shape == tiny_teacher.spec.image_shape


def test_features_are_compared_with_those_of_the_same_channels(tiny_teacher: Teacher) -> None:
    """What the first layers make is not changed by a cut but for what is missing of it."""
    run = begin_distillation(tiny_teacher, slim_config())
    assert run._slimming is not None
    run._slim(run._slimming, 0.5)

    features, targets, shared = features_beside(tiny_teacher, run)

    assert features.keys() == shared.keys()
    assert all(features[key].shape == shared[key].shape for key in features)
    first = next(iter(features))
    assert features[first].shape[1] < targets[first].shape[1]
    assert torch.allclose(features[first], shared[first], atol=1e-5)


class CountsOnEight(nn.Module):
    """Its forward has a number of channels written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.norm(self.first(inputs)).mean((2, 3))
        return self.head(x.reshape(-1, 8) if x.numel() == 16 else x.reshape(-1, 9))


def test_a_forward_that_counts_on_its_channels_is_refused() -> None:
    network = CountsOnEight().eval()
    slimming = Slimming(network, SHAPE)
    slimming.cut(network, 0.5).apply(network)

    with pytest.raises(IncompatibleError, match="does not run with fewer of them"):
        require_flow(network, tiny_spec())


def test_keeping_everything_is_told_from_a_network_of_which_nothing_can_go(
    tiny_teacher: Teacher,
) -> None:
    with pytest.raises(ConfigError, match="--keep"):
        slimming_of(tiny_teacher, slim_config(keep="*"))


def test_a_network_of_which_nothing_can_go_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="no channel of this network can be removed"):
        Slimming(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval(), SHAPE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 0.5}, "--channels 0.5: found --sparsity 0.5, expected one of the two"),
        ({"student": "resnet8"}, "--channels 0.5: found --student resnet8"),
        ({"reconstruct": "least-squares"}, "--channels 0.5: found --reconstruct least-squares"),
        ({"allocation": "erk"}, "--channels 0.5: found --allocation erk"),
        ({"repair": "matched"}, "--channels 0.5: found --repair matched"),
        ({"channels": 0.0}, "--channels: found 0.0, expected more than 0"),
        ({"channels": 1.5}, "--channels: found 1.5, expected at most 1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        slim_config(**changes)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("count", "nearest"),
    [(1, 8), (11, 8), (12, 16), (16, 16), (19, 16), (20, 20), (30, 20)],
)
def test_numbers_are_rounded_to_multiples_and_all_may_stay(count: int, nearest: int) -> None:
    assert rounded(count, 8, 20) == nearest
    assert rounded(min(count, 7), 8, 7) == min(count, 7)  # of seven there is no multiple
    assert rounded(count, 1, 40) == count


@pytest.mark.parametrize("importance", ["magnitude", "fisher"])
@pytest.mark.parametrize("channels", [0.8, 0.6, 0.3])
def test_rounded_students_have_whole_multiples_and_cost_as_little(
    tiny_teacher: Teacher, channels: float, importance: str
) -> None:
    macs = {}
    for round_to in (1, 8):
        network = copy.deepcopy(tiny_teacher.network)
        slimming = Slimming(network, SHAPE)
        draws = torch.Generator().manual_seed(0)
        squares = {
            name: torch.rand(p.shape, generator=draws) ** 4
            for name, p in network.named_parameters()
        }
        for fraction in (0.9, channels):
            cut = slimming.cut(
                network,
                fraction,
                squared_gradients=squares if importance == "fisher" else None,
                by_worth=True,
                round_to=round_to,
            )
            cut.apply(network)
            squares = {name: cut.of(name, each) for name, each in squares.items()}
        macs[round_to] = count_macs(network, torch.zeros(1, *SHAPE))[0]
        widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]

    assert all(width % 8 == 0 for width in widths)
    if importance == "magnitude" or channels < 0.5:  # of 16 channels 8 are the fewest
        assert 0.5 * macs[1] < macs[8] < 2.5 * macs[1]
    else:
        assert 0.8 * macs[1] < macs[8] <= macs[1]
    network.eval()(torch.zeros(2, *SHAPE))


def test_what_rounding_leaves_of_the_budget_is_spent() -> None:
    worth = [torch.tensor([5.0, 5.0, 1.0, 1.0])] * 2

    def count(kept: Sequence[NDArray[np.int64]]) -> int:
        return sum(map(len, kept))

    found = [worth_most(worth, (1, 1), count, budget, round_to=2) for budget in (4, 5, 6, 8)]

    assert [[len(units) for units in groups] for groups in found] == [
        [2, 2],
        [2, 2],
        [4, 2],
        [4, 4],
    ]


def test_rounding_without_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--round-to 8: found no --channels"):
        quick_config(round_to=8)
