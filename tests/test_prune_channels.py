"""``recover prune`` where channels are removed, or weights follow a pattern."""

import copy
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import blobs
from recover_fixtures import prune, quick_config, self_contained_dreams
from torch import Tensor, nn

from recover.channels import slimming_of
from recover.importance import prunable_weights
from recover.multiply_adds import count_macs
from recover.prune import plan_pruning
from shared.dreamset import DreamSet
from shared.teacher import Teacher

SLIM = quick_config(sparsity=0.0, channels=0.0625)  # one of 16
WITHIN = "layer1.0.conv1.weight"  # makes channels that no other layer makes
STAGE = ("conv1.weight", "layer1.0.conv2.weight")  # are added to each other


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    """A dream set with its teacher inside."""
    return self_contained_dreams(tmp_path_factory.mktemp("set"), tiny_teacher)


def test_what_is_left_of_every_layer_is_what_the_student_has(
    dreams: DreamSet, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    result = prune("--dreams", dreams.path, "--channels", 0.5, "--out", tmp_path / "o", "--json")

    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    saved = safetensors.torch.load_file(tmp_path / "o" / "student.safetensors")
    weights = prunable_weights(tiny_teacher.network)
    assert [layer["name"] for layer in record["layers"]] == list(weights)
    for layer in record["layers"]:
        whole, left = weights[layer["name"]], saved[layer["name"]]
        assert (tuple(layer["shape"]), layer["num_weights"]) == (tuple(whole.shape), whole.numel())
        assert (tuple(layer["shape_left"]), layer["num_kept"]) == (tuple(left.shape), left.numel())
        assert layer["sparsity"] == 1 - left.numel() / whole.numel()
    assert record["num_weights"] == sum(weight.numel() for weight in weights.values())
    assert record["num_kept"] == record["report"]["num_kept"] < record["num_weights"]
    assert (record["sparsity"], record["channels"]) == (0, 0.5)
    for name in ("macs_dense", "macs_teacher", "num_bytes_dense"):
        assert record["costs"][name] == record["report"]["costs"][name]


def test_all_of_the_channels_cost_nothing(tiny_teacher: Teacher) -> None:
    plan = plan_pruning(quick_config(sparsity=0.0, channels=1.0), tiny_teacher, blobs(8)[0])

    assert plan.agreement == 1
    assert plan.costs is not None
    image = torch.zeros(1, *tiny_teacher.spec.image_shape)
    macs = count_macs(tiny_teacher.network, image)[0]
    assert plan.costs.macs_dense == plan.costs.macs_teacher == macs
    for layer in plan.layers:
        assert layer.shape_left == layer.shape
        assert (layer.sparsity, layer.lost_energy) == (0, 0)
    # The last layer's channels are the classes.
    assert [layer.lone_agreement for layer in plan.layers] == [1.0] * 7 + [None]


@pytest.mark.parametrize(("stage", "num_gone"), [("layer1", 15), ("layer3", 60)])
def test_channels_that_a_layer_makes_alone_are_as_good_as_silent(
    tiny_teacher: Teacher, stage: str, num_gone: int
) -> None:
    """A channel behind a BatchNorm without scale and shift is zero: gone, in all but shape."""
    images = noise(60)
    plan = plan_pruning(SLIM, tiny_teacher, images)

    silent = copy.deepcopy(tiny_teacher)
    gone = _gone(tiny_teacher, f"{stage}.0.conv1.weight")
    assert len(gone) == num_gone
    norm = silent.network.get_submodule(f"{stage}.0.bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[gone], norm.bias[gone] = 0, 0
    alone = {layer.name: layer.lone_agreement for layer in plan.layers}
    assert alone[f"{stage}.0.conv1.weight"] == pytest.approx(_agreement(silent, tiny_teacher))
    assert len({alone[name] for name in STAGE}) == 1
    assert alone[WITHIN] != alone[STAGE[0]]


def noise(count: int) -> Tensor:
    """Nothing that a teacher would be sure of."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=draws)


def _agreement(network: Teacher, teacher: Teacher) -> float:
    answers = [some.logits(noise(60)).argmax(1) for some in (network, teacher)]
    return float((answers[0] == answers[1]).float().mean())


def _gone(teacher: Teacher, name: str) -> list[int]:
    slimming = slimming_of(teacher, SLIM)
    assert slimming is not None
    (number,) = [number for number, names in slimming.makers().items() if name in names]
    slimming.cut(teacher.network, 0.0625, only=number)
    others = [kept for at, kept in enumerate(slimming.kept) if at != number]
    full = slimming_of(teacher, SLIM)
    assert full is not None
    assert [len(kept) for kept in others] == [
        len(kept) for at, kept in enumerate(full.kept) if at != number
    ]
    return sorted({*full.kept[number].tolist()} - {*slimming.kept[number].tolist()})


class SideBySide(nn.Module):
    """Channels of two layers, one behind the other, that a third takes in together."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Conv2d(3, 8, 1, bias=False) for _ in range(2))
        self.both, self.head = nn.Conv2d(16, 8, 1, bias=False), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        found = self.both(torch.cat([self.left(images).relu(), self.right(images).relu()], dim=1))
        return self.head(found.relu().mean((2, 3)))


def test_each_layer_is_measured_with_all_others_whole(tiny_teacher: Teacher) -> None:
    teacher = Teacher(network=SideBySide().eval(), spec=tiny_teacher.spec)

    plan = plan_pruning(SLIM, teacher, noise(8))

    alone = {layer.name: layer.lone_agreement for layer in plan.layers}
    assert [name for name, found in alone.items() if found is None] == ["head.weight"]


def test_layers_that_are_kept_have_nothing_to_show(tiny_teacher: Teacher) -> None:
    config = quick_config(sparsity=0.0, channels=0.5, keep=WITHIN)

    plan = plan_pruning(config, tiny_teacher, blobs(8)[0])

    layers = {layer.name: layer for layer in plan.layers}
    kept = layers[WITHIN]
    assert kept.never_pruned
    assert kept.shape_left == kept.shape
    assert kept.lone_agreement is None
    assert layers["layer3.0.conv1.weight"].lone_agreement is not None


def test_a_pattern_alone_is_that_of_the_whole_network(tiny_teacher: Teacher) -> None:
    plan = plan_pruning(quick_config(sparsity=0.0, pattern="1:4"), tiny_teacher, noise(60))

    first, *others = plan.layers
    assert first.num_kept == first.num_weights == 16 * 3 * 9  # three channels are no group of four
    assert first.lone_agreement == 1
    assert all(layer.num_kept == layer.num_weights // 4 for layer in others)
    assert plan.sparsity == pytest.approx(1 - plan.num_kept / plan.num_weights)
    assert plan.costs is None
    for layer in others:
        teacher = copy.deepcopy(tiny_teacher)
        weight = prunable_weights(teacher.network)[layer.name]
        groups = weight.data.unflatten(1, (-1, 4))
        best = groups.abs().amax(dim=2, keepdim=True)
        weight.data.copy_(groups.where(groups.abs() >= best, 0).flatten(1, 2))
        assert layer.lone_agreement == pytest.approx(_agreement(teacher, tiny_teacher))
    assert min(layer.lone_agreement or 1 for layer in others) < 1


def test_the_command_shows_shapes_and_what_the_smaller_network_costs(teacher_file: Path) -> None:
    result = prune("--teacher", teacher_file, "--channels", 0.5)

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["resnet8", "at", "50", "%", "of", "its", "channels"]
    rows = {cells[1].strip(): cells[2:-1] for line in lines if len(cells := line.split("│")) > 2}
    cells = [cell.strip() for cell in rows[WITHIN]]
    assert cells[:5] == ["16x16x3x3", "8x8x3x3", "2,304", "576", "75.00 %"]
    assert "one image costs" in result.stdout.replace("\n", " ")
    assert "M multiply-adds, in the teacher" in result.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--channels", "0.5", "--sparsity", "0.5"], "found --sparsity 0.5, expected one of"),
        (["--channels", "0.5", "--pattern", "2:4"], "expected one of the two"),
        (["--round-to", "8"], "--round-to 8: found no --channels"),
        (["--pattern", "4:2"], "--pattern: found '4:2'"),
        (["--channels", "0.5", "--reconstruct", "least-squares"], "--reconstruct least-squares"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    teacher_file: Path, words: list[str], text: str
) -> None:
    result = prune("--teacher", teacher_file, *words)

    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line.lower()]
    assert text in line
