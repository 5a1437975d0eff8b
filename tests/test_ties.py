"""Networks whose layers share a tensor: one in the teacher, one in the student, one in the file."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import blobs
from recover_fixtures import blob_dreams
from safetensors.torch import load_file
from torch import Tensor, nn

from recover.cli import main
from shared.checkpoint import Checkpoint, save_network
from shared.errors import CheckpointError
from shared.teacher import Teacher, load_teacher, teacher_from_checkpoint
from shared.ties import shared_names

CLASSES = 4
NETWORK = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.norm0, self.norm1, self.norm2 = (nn.BatchNorm2d(8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm0(self.stem(x)).relu()
        x = self.norm1(self.first(x)).relu()
        return self.head(self.norm2(self.second(x)).relu().mean((2, 3)))
"""
NUM_WEIGHTS = 8 * 3 * 9 + 8 * 8 * 9 + 4 * 8  # the shared weight once


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """One whose BatchNorm layers have seen images."""
    (tmp_path / "tied_networks.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "tied_networks", raising=False)
    import tied_networks  # type: ignore[import-not-found]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tied: nn.Module = tied_networks.Tied()
    for _ in range(20):
        tied(blobs(64)[0] / 255)
    return tied.eval()


def load(tensors: dict[str, Tensor]) -> Teacher:
    checkpoint = Checkpoint(tensors=tensors, metadata={})
    return teacher_from_checkpoint(checkpoint, architecture="tied_networks:Tied", image_size=8)


def test_what_shares_a_tensor_still_does_once_it_is_loaded(network: nn.Module) -> None:
    loaded = load(network.state_dict()).network

    assert loaded.first.weight is loaded.second.weight
    assert shared_names(loaded) == (("first.weight", "second.weight"),)
    assert sum(p.numel() for p in loaded.parameters() if p.ndim > 1) == NUM_WEIGHTS


def test_two_tensors_for_the_one_that_is_shared_are_refused_in_one_line(network: nn.Module) -> None:
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors["second.weight"][0, 0, 0, 0] += 1

    with pytest.raises(
        CheckpointError, match=r"'first\.weight' and 'second\.weight' differ"
    ) as caught:
        load(tensors)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("level", [("--sparsity", "0.5"), ("--channels", "0.5")])
def test_a_student_shares_what_its_teacher_shares(
    network: nn.Module, tmp_path: Path, level: tuple[str, str]
) -> None:
    save_network(tmp_path / "teacher.safetensors", network, {})
    facts = {"architecture": "tied_networks:Tied", "image_size": 8}
    teacher = load_teacher(tmp_path / "teacher.safetensors", **facts)
    dreams = blob_dreams(tmp_path / "set", teacher)
    arguments = ["run", "--dreams", dreams.path, "--teacher", tmp_path / "teacher.safetensors"]
    arguments += ["--arch", "tied_networks:Tied", *level, "--steps", 6, "--batch-size", 32]
    arguments += ["--lr", 0.05, "--device", "cpu", "--out", tmp_path / "out", "--json"]

    result = CliRunner().invoke(main, [*map(str, arguments)])

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    student = load_file(tmp_path / "out" / "student.safetensors")
    assert torch.equal(student["first.weight"], student["second.weight"])
    assert not torch.equal(student["first.weight"], network.first.weight)
    if level[0] == "--sparsity":
        assert report["num_weights"] == NUM_WEIGHTS
        assert report["num_kept"] == NUM_WEIGHTS // 2
        network.load_state_dict(student)  # the original class takes it
    else:
        assert student["first.weight"].shape == (4, 4, 3, 3)
