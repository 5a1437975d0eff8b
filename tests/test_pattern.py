"""N of every M weights: exactly so, in every group, from the first step to the saved file."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from recover_fixtures import blob_dreams, quick_config
from safetensors.torch import load_file
from torch import Tensor, nn

from recover.allocation import choose_masks
from recover.cli import main
from recover.config import RecoverConfig
from recover.pattern import parse_pattern, pattern_sparsity, patterned_layers
from recover.pipeline import recover_student
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError
from shared.magnitude import prunable_weights
from shared.teacher import Teacher


def pattern_config(**changes: object) -> RecoverConfig:
    return quick_config(**{"sparsity": 0.0, "pattern": "2:4", **changes})


@pytest.fixture
def dreams(tiny_teacher: Teacher, tmp_path: Path) -> DreamSet:
    return blob_dreams(tmp_path / "set", tiny_teacher)


def num_kept_by_group(weight: Tensor, size: int) -> Tensor:
    """How many of every ``size`` neighbouring input channels are not zero, counted by hand."""
    counts = [
        (part != 0).sum(1) for part in weight.split(size, dim=1)
    ]  # of (out, in / groups, ...)
    return torch.stack(counts)


@pytest.mark.parametrize(("pattern", "kept", "size"), [("2:4", 2, 4), ("1:4", 1, 4), ("4:8", 4, 8)])
@pytest.mark.parametrize("schedule", ["gradual", "one-shot"])
def test_every_group_of_a_saved_student_has_n_of_m(
    tiny_teacher: Teacher,
    dreams: DreamSet,
    tmp_path: Path,
    pattern: str,
    kept: int,
    size: int,
    schedule: str,
) -> None:
    config = pattern_config(pattern=pattern, schedule=schedule, ema=0.5)

    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "out")

    tensors = load_file(tmp_path / "out" / "student.safetensors")
    weights = {name: tensors[name] for name in prunable_weights(tiny_teacher.network)}
    for name, weight in weights.items():
        counts = num_kept_by_group(weight, size)
        if name == "conv1.weight":  # of three channels
            assert (weight != 0).all()
        else:
            assert (counts == kept).all(), name
    num_zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert report.num_weights - report.num_kept == num_zeros
    assert report.sparsity == pytest.approx(num_zeros / report.num_weights)


def test_the_best_of_each_group_are_kept_and_the_worst_go_first() -> None:
    network = nn.Sequential(nn.Conv2d(8, 2, 1, bias=False))
    weights = torch.tensor([[1.0, 4, 2, 3, 8, 5, 6, 7], [0.4, 0.3, 0.2, 0.1, 0.9, 0.9, 0.9, 0.9]])
    with torch.no_grad():
        network[0].weight.copy_(weights.view(2, 8, 1, 1))
    config = pattern_config()

    final = choose_masks(network, config, 0.5).kept["0.weight"].flatten(1)
    halfway = choose_masks(network, config, 0.25).kept["0.weight"].flatten(1)

    expected = [[0, 1, 0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1, 0, 0]]
    assert final.int().tolist() == expected
    # The four lowest of the eight that will go.
    assert halfway.int().tolist() == [[1] * 8, expected[1]]


def test_what_is_pruned_on_the_way_stays_pruned_though_others_became_less() -> None:
    network = nn.Sequential(nn.Linear(8, 3, bias=False))
    config, kept = pattern_config(), None
    draws = torch.Generator().manual_seed(0)
    for sparsity in (0.1, 0.2, 0.35, 0.5):
        with torch.no_grad():  # as if steps had been taken
            network[0].weight.copy_(torch.randn(3, 8, generator=draws))
        before = kept
        kept = choose_masks(network, config, sparsity, kept).kept
        if before is not None:
            assert not (kept["0.weight"] & ~before["0.weight"]).any()
        assert int(kept["0.weight"].sum()) == round((1 - sparsity) * 24)

    assert (kept["0.weight"].unflatten(1, (2, 4)).sum(2) == 2).all()


def test_layers_without_such_groups_stay_dense() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
    )
    turned = nn.Sequential(nn.ConvTranspose2d(4, 8, 3), nn.Linear(8, 8))

    assert patterned_layers(network, 4) == ["2.weight"]
    assert patterned_layers(network, 2) == ["2.weight", "3.weight"]
    assert patterned_layers(turned, 4) == ["1.weight"]
    assert patterned_layers(turned, 4, whole=("1.weight",)) == []
    assert pattern_sparsity(turned, "1:4") == (64 * 3 // 4) / (64 + 4 * 8 * 9)
    with pytest.raises(IncompatibleError, match=r"--pattern 2:16: no layer has a multiple of 16"):
        pattern_sparsity(network, "2:16")


@pytest.mark.parametrize("text", ["", "2", "2:4:8", "0:4", "4:4", "5:4", "2:65", "-1:4", "2 : 4"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--pattern: found .*, expected N:M such as 2:4"):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 0.5}, "--pattern 2:4: found --channels 0.5, expected one of the two"),
        ({"student": "resnet20"}, "--pattern 2:4: found --student resnet20"),
        ({"allocation": "erk"}, "--pattern 2:4: found --allocation erk, expected global"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pattern_config(**changes)


def test_the_command_line_names_the_folder_and_refuses_a_sparsity(
    tiny_teacher: Teacher, teacher_file: Path, dreams: DreamSet, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "--dreams", str(dreams.path), "--teacher", str(teacher_file), "--json"]
    quick = ["--steps", "6", "--batch-size", "16", "--device", "cpu", "--pattern", "2:4"]

    refused = CliRunner().invoke(main, [*words, *quick, "--sparsity", "0.7"])
    made = CliRunner().invoke(main, [*words, *quick])
    again = CliRunner().invoke(main, [*words, *quick])
    other = CliRunner().invoke(main, [*words, *quick[:-1], "1:4", "--out", "dreams-2of4"])

    assert refused.exit_code == 2
    assert "--pattern 2:4: found --sparsity 0.7, expected one of the two" in refused.stderr
    assert made.exit_code == 0, made.stderr
    record = json.loads(made.stdout)
    assert record["out"] == "dreams-2of4"
    assert record["config"]["pattern"] == "2:4"
    assert "already finished" in again.stderr
    assert json.loads(again.stdout) == record
    assert other.exit_code == 4
    assert "holds a finished run with --pattern 2:4 (now 1:4)" in other.stderr
