"""Both command lines in one go: a checkpoint becomes dreams, dreams a student, the student a file.

The student is then opened the way a stranger would: torch and safetensors, nothing of ours.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import blobs
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import resnet18

import dreamforge.cli
import recover.cli
from shared.architectures import build_network
from shared.dreamset import DreamSet
from shared.teacher import Teacher

SYNTH = ["--steps", "3", "--batch-size", "8", "--precision", "float32", "--device", "cpu"]
RUN = ["--steps", "4", "--batch-size", "8", "--prune-every", "1", "--repair-images", "16"]
RUN += ["--precision", "float32", "--device", "cpu"]

# A stranger's own ResNet-8: what the teacher file's weights are meant for.
STRANGERS_RESNET8 = """
import torch.nn.functional as F
from torch import nn

class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.more = stride, (after - before) // 2
    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, self.more, self.more)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.linear = nn.Linear(64, 4)
    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))

network = Net()
"""
TORCHVISIONS = "from torchvision.models import resnet18; network = resnet18(num_classes=4)\n"
# Reads student and images, prints answers and zeros, and proves that nothing of ours took part.
JUDGE = """
import json, sys, torch
from safetensors import safe_open
from safetensors.torch import load_file
with safe_open(sys.argv[1], "pt") as file:
    facts = json.loads(file.metadata()["dreamforge"])
network.load_state_dict(load_file(sys.argv[1]))
images = torch.load(sys.argv[2]).float() / 255
mean, std = (torch.tensor(facts[name]).view(-1, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    answers = network.eval()((images - mean) / std).argmax(1).tolist()
weights = [m.weight for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
kept = sum(int(weight.count_nonzero()) for weight in weights)
ours = [name for name in ("dreamforge", "recover", "shared") if name in sys.modules]
print(json.dumps({"answers": answers, "kept": kept, "ours": ours}))
"""


def dreams_of(teacher: Path, out: Path, *arguments: object, code: int = 0) -> dict:
    words = ["synth", "--teacher", str(teacher), "--out", str(out), *SYNTH, "--json"]
    result = CliRunner().invoke(dreamforge.cli.main, [*words, *map(str, arguments)])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def student_of(dreams: Path, out: Path, *arguments: object, code: int = 0) -> dict:
    words = ["run", "--dreams", str(dreams), "--out", str(out), *RUN, "--json"]
    result = CliRunner().invoke(recover.cli.main, [*words, *map(str, arguments)])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else {"error": result.stderr.splitlines()[-1]}


def judged_by_a_stranger(network: str, student: Path, images: torch.Tensor, folder: Path) -> dict:
    torch.save(images, folder / "images.pt")
    result = subprocess.run(
        [sys.executable, "-c", network + JUDGE, str(student), str(folder / "images.pt")],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def save_as_images(folder: Path, images: torch.Tensor, names: list[str]) -> None:
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        array = image.permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(array).save(folder / name / f"{number}.png")


@pytest.mark.slow
def test_checkpoint_to_dreams_to_student_to_a_stranger(
    tiny_teacher: Teacher, teacher_file: Path, tmp_path: Path
) -> None:
    dreams, out = tmp_path / "dreams.h5", tmp_path / "student"
    made = dreams_of(teacher_file, dreams, "--n", 64)
    assert made["num_images"] == 64
    images, labels = blobs(24, seed=9)
    assert tiny_teacher.spec.class_names is not None
    names = [tiny_teacher.spec.class_names[label] for label in labels.tolist()]
    save_as_images(tmp_path / "real", images, names)

    # The set records where its teacher lies, so no --teacher is needed.
    judge = ("--eval-data", tmp_path / "real")
    report = student_of(dreams, out, "--sparsity", 0.75, *judge)

    assert report["teacher"]["accuracy"] > 0.9
    recovered = report["recovered"]
    assert recovered["sparsity"] == pytest.approx(0.75, abs=1e-4)
    words = ["eval", out, "--teacher", teacher_file, "--dreams", dreams, *judge]
    words += ["--device", "cpu", "--json"]
    again = CliRunner().invoke(recover.cli.main, list(map(str, words)))
    verdict = json.loads(again.stdout)
    for name in ("accuracy", "agreement", "num_nonzero"):
        assert verdict[name] == pytest.approx(recovered[name])

    student = out / "student.safetensors"
    assert load_file(student).keys() == tiny_teacher.network.state_dict().keys()
    found = judged_by_a_stranger(STRANGERS_RESNET8, student, images, tmp_path)
    assert found["ours"] == []
    assert found["kept"] == recovered["num_nonzero"]
    # Files come back in the order of their class folders, answers do not depend on it.
    right = sum(a == label for a, label in zip(found["answers"], labels.tolist(), strict=True))
    assert right / 24 == pytest.approx(recovered["accuracy"])


@pytest.mark.slow
def test_a_torchvision_state_dict_goes_all_the_way_and_comes_back(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet18(num_classes=4)
    checkpoint = tmp_path / "mine.pt"
    torch.save(network.state_dict(), checkpoint)
    dreams, out = tmp_path / "dreams.h5", tmp_path / "student"

    dreams_of(checkpoint, dreams, "--n", 16, "--image-size", 32)
    spec = DreamSet.open(dreams).manifest.teacher
    assert (spec.architecture, spec.num_classes, spec.image_shape) == ("resnet18", 4, (3, 32, 32))
    report = student_of(dreams, out, "--sparsity", 0.5, "--holdout", 0.25)

    assert report["teacher"]["accuracy"] is None
    assert report["recovered"]["agreement"] is not None
    images = DreamSet.open(dreams).read(0, 16).images
    found = judged_by_a_stranger(TORCHVISIONS, out / "student.safetensors", images, tmp_path)
    assert found["ours"] == []
    assert found["kept"] == report["recovered"]["num_nonzero"]
    assert len(found["answers"]) == 16


def test_an_embedded_teacher_is_all_that_other_teams_need(
    teacher_file: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(teacher_file.read_bytes())
    dreams_of(mine, tmp_path / "with.h5", "--n", 16, "--embed-teacher")
    dreams_of(mine, tmp_path / "without.h5", "--n", 16)
    mine.unlink()

    report = student_of(tmp_path / "with.h5", tmp_path / "a")
    assert report["recovered"]["sparsity"] == pytest.approx(0.8, abs=1e-4)
    refused = student_of(tmp_path / "without.h5", tmp_path / "b", code=2)
    assert "pass it with --teacher" in refused["error"]


def test_dreams_of_another_teacher_are_refused_and_can_be_insisted_on(
    tiny_teacher: Teacher, teacher_file: Path, tmp_path: Path
) -> None:
    dreams_of(teacher_file, tmp_path / "dreams.h5", "--n", 16)
    other = tmp_path / "other.pt"
    tensors = {name: tensor.clone() for name, tensor in tiny_teacher.network.state_dict().items()}
    tensors["conv1.weight"] += 1e-3
    torch.save(tensors, other)
    arguments = (tmp_path / "dreams.h5", tmp_path / "o", "--teacher", other)

    assert "--allow-teacher-mismatch" in student_of(*arguments, code=4)["error"]
    report = student_of(*arguments, "--allow-teacher-mismatch")
    assert any("fingerprint" in warning for warning in report["warnings"])


def test_the_same_weights_in_another_file_are_the_same_teacher(
    tiny_teacher: Teacher, teacher_file: Path, tmp_path: Path
) -> None:
    dreams_of(teacher_file, tmp_path / "dreams.h5", "--n", 16)
    wrapped = {"module." + name: t for name, t in tiny_teacher.network.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "same.pth")

    report = student_of(tmp_path / "dreams.h5", tmp_path / "o", "--teacher", tmp_path / "same.pth")
    assert report["recovered"]["sparsity"] == pytest.approx(0.8, abs=1e-4)


def test_a_grayscale_teacher(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet8", num_classes=4, in_channels=1)
    torch.save(network.state_dict(), tmp_path / "gray.pt")
    images, _ = blobs(8)
    save_as_images(tmp_path / "real", images[:, :1], [str(label) for label in [0, 1, 2, 3] * 2])

    dreams_of(tmp_path / "gray.pt", tmp_path / "dreams.h5", "--n", 16, "--image-size", 8)
    assert DreamSet.open(tmp_path / "dreams.h5").image_shape == (1, 8, 8)
    judge = ("--eval-data", tmp_path / "real")
    report = student_of(tmp_path / "dreams.h5", tmp_path / "o", *judge)

    assert 0 <= report["recovered"]["accuracy"] <= 1
    student = load_file(tmp_path / "o" / "student.safetensors")
    assert student["conv1.weight"].shape == (16, 1, 3, 3)
