"""Students as programs: files that PyTorch and ONNX runtimes run without us."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import blobs
from recover_fixtures import blob_dreams, quick_config
from safetensors.torch import save_file
from torch import Tensor, nn

from recover.cli import main
from recover.export import load_student
from recover.pipeline import recover_student
from recover.programs import write_program
from shared.errors import DreamforgeError
from shared.images import to_pixels
from shared.teacher import Teacher

HAS_ONNX = all(importlib.util.find_spec(n) for n in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture(scope="module")
def student(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    dreams = blob_dreams(folder / "set", tiny_teacher)
    config = quick_config(sparsity=0.0, channels=0.5)
    recover_student(config, tiny_teacher, dreams, None, folder / "out")
    return folder / "out"


def test_a_program_says_the_same_where_nothing_of_ours_is(student: Path, tmp_path: Path) -> None:
    out, pixels = tmp_path / "student.pt2", tmp_path / "pixels.safetensors"
    classifier = load_student(student / "student.safetensors").classifier
    images = blobs(5, seed=3)[0]
    save_file({"pixels": to_pixels(images).contiguous()}, pixels)

    result = CliRunner().invoke(
        main, ["export", str(student), "--out", str(out), "--pixels", "--json"]
    )

    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["shape"] == [None, 3, 8, 8]
    assert record["num_bytes"] == out.stat().st_size
    script = (
        "import sys, torch\n"
        "from safetensors.torch import load_file, save_file\n"
        f"program = torch.export.load({str(out)!r}).module()\n"
        f"pixels = load_file({str(pixels)!r})['pixels']\n"
        f"save_file({{'logits': program(pixels)}}, {str(tmp_path / 'logits')!r})\n"
        "assert not {'shared', 'recover', 'dreamforge'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], check=True, cwd=tmp_path, timeout=120)
    from safetensors.torch import load_file

    logits = load_file(tmp_path / "logits")["logits"]
    assert torch.allclose(logits, classifier.logits(images), atol=1e-4)


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxscript and onnxruntime")
def test_an_onnx_file_says_the_same(student: Path, tmp_path: Path) -> None:
    classifier = load_student(student / "student.safetensors").classifier

    program = write_program(classifier, tmp_path / "student.onnx", num_images=2)

    assert program.difference is not None
    assert program.difference < 1e-4
    assert program.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "student.tflite"], "found suffix '.tflite', expected .pt2 or .onnx"),
        (["--out", "there.pt2"], "is there already; choose another, or --overwrite it"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").write_text("mine")

    result = CliRunner().invoke(main, ["export", str(student), *arguments])

    assert result.exit_code == 2
    assert message in result.stderr
    assert Path("there.pt2").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]


def test_onnx_without_its_packages_is_one_line(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    result = CliRunner().invoke(main, ["export", str(student), "--out", str(tmp_path / "s.onnx")])

    assert result.exit_code == 2
    assert "needs onnx and onnxscript: pip install onnx onnxscript" in result.stderr


class Moody(nn.Module):
    """Computes otherwise where the image is bright: no program can be read off a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.head(inputs.flatten(1))
        return logits if float(inputs.mean()) > 0 else -logits


class Spectral(nn.Module):
    """Its logits are eigenvalues, which ONNX does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        square = self.head(inputs.flatten(1)).reshape(-1, 4, 4)
        values: Tensor = torch.linalg.eigvalsh(square @ square.mT)
        return values


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxscript and onnxruntime")
def test_what_onnx_has_no_word_for_is_refused(tiny_teacher: Teacher, tmp_path: Path) -> None:
    classifier = Teacher(network=Spectral(), spec=tiny_teacher.spec)

    with pytest.raises(DreamforgeError, match=r"cannot be written as a program .*eigh") as caught:
        write_program(classifier, tmp_path / "student.onnx")

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_no_program_is_refused(tiny_teacher: Teacher, tmp_path: Path) -> None:
    classifier = Teacher(network=Moody(), spec=tiny_teacher.spec)

    with pytest.raises(DreamforgeError, match="cannot be written as a program") as caught:
        write_program(classifier, tmp_path / "student.pt2")

    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
