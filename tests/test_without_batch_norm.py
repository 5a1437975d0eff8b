"""Networks that nobody can invert: students of them are taught on images that are there."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import NUM_CLASSES, blobs
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import dreamforge
import recover
from dreamforge.cli import main as forge
from recover.cli import main as tool
from shared.architectures import build_skeleton, identify, torchvision_plain
from shared.checkpoint import save_network
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.magnitude import prunable_weights
from shared.teacher import load_teacher

WIDTH = 16
LARGEST = ("convnext_base", "convnext_large", "swin_b", "swin_v2_b", "vit_l_16", "vit_l_32")
QUICK = ("--steps", "12", "--batch-size", "16", "--prune-every", "2", "--precision", "float32")
SIZE = ("--image-size", "8", "--mean", "0.5", "--std", "0.25")


class Plain(nn.Module):
    """A convolution, a GroupNorm, PyTorch's own attention over pixels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.norm = nn.GroupNorm(2, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(16 * WIDTH, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.norm(self.stem(inputs)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        logits: Tensor = self.head(tokens.relu().flatten(1))
        return logits


@pytest.fixture(scope="module")
def network() -> Plain:
    """One that tells bright quadrants apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Plain()
    images, labels = blobs(256)
    adam = torch.optim.Adam(made.parameters(), lr=0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(made((images / 255 - 0.5) / 0.25), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return made.eval().requires_grad_(False)


@pytest.fixture
def here(network: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the checkpoint and photos, where ``plain_net:make`` builds the network."""
    monkeypatch.chdir(tmp_path)
    module = type(sys)("plain_net")
    module.make = Plain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plain_net", module)
    torch.save(network.state_dict(), "net.pt")
    Path("photos").mkdir()
    for number, image in enumerate(blobs(48, seed=3)[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"photos/{number:02}.png")
    return tmp_path


def call(command: object, *words: object, code: int = 0) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words])  # type: ignore[arg-type]
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def imported(out: str = "images.h5") -> DreamSet:
    named = ("--teacher", "net.pt", "--arch", "plain_net:make", *SIZE)
    call(forge, "import", "photos", *named, "--out", out)
    return DreamSet.open(Path(out))


def test_inversion_is_refused_and_the_other_way_is_named(here: Path) -> None:
    named = ("--teacher", "net.pt", "--arch", "plain_net:make", *SIZE)

    said = call(forge, "synth", *named, "--n", 8, "--out", "dreams.h5", code=3)

    assert "no BatchNorm statistics" in said
    assert "dreamforge import" in said
    assert not list(here.glob("*.h5"))


def test_a_student_is_taught_on_images(here: Path, network: Plain) -> None:
    images = imported()
    batch = images.select(torch.arange(48))
    answers = network((batch.images / 255 - 0.5) / 0.25)
    assert torch.equal(batch.labels, answers.argmax(1))
    torch.testing.assert_close(batch.logits.float(), answers, rtol=1e-2, atol=1e-2)

    named = ("--dreams", "images.h5", "--teacher", "net.pt", "--arch", "plain_net:make")
    call(tool, "run", *named, "--sparsity", 0.75, *QUICK, "--out", "student")

    # By hand: the stem's 2x2 over 3 channels, attention's four matrices, the head.
    total = WIDTH * 3 * 4 + 4 * WIDTH * WIDTH + NUM_CLASSES * 16 * WIDTH
    student = load_file("student/student.safetensors")
    assert student["attention.in_proj_weight"].shape == (3 * WIDTH, WIDTH)
    names = ["stem.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]
    assert sum(student[name].numel() for name in names) == total
    assert sum(int(student[name].count_nonzero()) for name in names) == round(0.25 * total)
    assert (student["attention.in_proj_weight"] == 0).any()
    taught = Plain()
    taught.load_state_dict(student)
    fresh = (blobs(256, seed=4)[0] / 255 - 0.5) / 0.25
    with torch.no_grad():
        assert (taught(fresh).argmax(1) == network(fresh).argmax(1)).float().mean() > 0.6


def test_at_sparsity_0_without_steps_the_student_is_the_teacher(here: Path, network: Plain) -> None:
    imported()
    named = ("--dreams", "images.h5", "--teacher", "net.pt", "--arch", "plain_net:make")
    call(tool, "run", *named, "--sparsity", 0, "--steps", 0, "--out", "same")

    student = load_file("same/student.safetensors")
    assert all(torch.equal(student[name], value) for name, value in network.state_dict().items())


@pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")
def test_a_network_at_hand_makes_the_same_rows_and_comes_back(here: Path, network: Plain) -> None:
    expected = imported()
    images = dreamforge.import_folder(
        "photos", network, "mine.h5", image_size=8, mean=0.5, std=0.25, progress=False
    )

    ours, theirs = (each.select(torch.arange(48)) for each in (images, expected))
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.logits, theirs.logits)
    assert images.manifest.provenance["synthetic"] is False
    found = recover.run(
        images, teacher=network, sparsity=0.5, steps=4, batch_size=16, out="back", progress=False
    )
    assert type(found.network) is Plain
    with pytest.raises(TypeError, match="unexpected option 'steps'"):
        dreamforge.import_folder("photos", network, steps=3)


def test_drawn_scenes_need_no_image_at_all(here: Path, network: Plain) -> None:
    named = ("--teacher", "net.pt", "--arch", "plain_net:make", *SIZE)
    call(forge, "draw", *named, "--n", 100, "--out", "many.h5")
    call(forge, "draw", *named, "--n", 70, "--shard-size", 33, "--out", "few.h5")
    call(forge, "draw", *named, "--n", 70, "--seed", 1, "--out", "other.h5")
    call(forge, "verify", "few.h5", "--deep", *named)

    many, few, other = (DreamSet.open(Path(f"{name}.h5")) for name in ("many", "few", "other"))
    rows = many.select(torch.arange(100))
    answers = network((rows.images / 255 - 0.5) / 0.25)
    assert torch.equal(rows.labels, answers.argmax(1))
    assert torch.equal(few.select(torch.arange(70)).images, rows.images[:70])
    assert not torch.equal(other.select(torch.arange(70)).images, rows.images[:70])
    assert len(rows.images.unique(dim=0)) == 100
    assert many.manifest.synthetic

    call(tool, "run", "--dreams", "many.h5", *named[:4], "--sparsity", 0.5, *QUICK, "--out", "s")
    assert Path("s/report.json").is_file()


@pytest.mark.parametrize("words", [("import", "photos"), ("draw", "--n", 8)])
def test_a_set_of_images_can_hold_the_teacher(here: Path, network: Plain, words: tuple) -> None:
    named = ("--teacher", here / "net.pt", "--arch", "plain_net:make", *SIZE)
    call(forge, *words, *named, "--embed-teacher", "--out", "whole.h5")
    call(forge, *words, *named, "--out", "bare.h5")
    Path("net.pt").unlink()

    call(
        tool,
        "run",
        "--dreams",
        "whole.h5",
        *named[2:4],
        "--sparsity",
        0,
        "--steps",
        0,
        "--out",
        "same",
    )
    same = load_file("same/student.safetensors")
    assert all(torch.equal(same[name], value) for name, value in network.state_dict().items())
    assert DreamSet.open(Path("whole.h5")).manifest.teacher.path == "net.pt"  # no folder of mine
    said = call(tool, "run", "--dreams", "bare.h5", "--sparsity", 0, "--out", "none", code=2)
    assert "pass it with --teacher" in said


def test_what_is_said_of_drawn_scenes_is_not_what_is_said_of_dreams(here: Path) -> None:
    named = ("--teacher", "net.pt", "--arch", "plain_net:make", *SIZE)
    call(forge, "draw", *named, "--n", 8, "--out", "scenes.h5")
    call(forge, "card", "scenes.h5")
    shown = CliRunner().invoke(forge, ["info", "scenes.h5"])

    text = Path("README.md").read_text()
    assert "Drawn scenes labeled by a trained classifier" in text
    assert "drawn by a program, and show nobody" in text
    assert "derived from the teacher's weights" not in text
    assert " steps" not in shown.stdout
    assert "synthetic does not mean private" not in shown.stderr


@pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")
def test_drawing_from_python(here: Path, network: Plain) -> None:
    facts = {"image_size": 8, "mean": 0.5, "std": 0.25, "progress": False}
    drawn = dreamforge.draw(network, "mine.h5", num_images=np.int64(70), init="pink", **facts)
    named = ("--teacher", "net.pt", "--arch", "plain_net:make", *SIZE)
    call(forge, "draw", *named, "--n", 70, "--init", "pink", "--out", "theirs.h5")

    ours, theirs = (
        each.select(torch.arange(70)) for each in (drawn, DreamSet.open(Path("theirs.h5")))
    )
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.logits, theirs.logits)
    for wrong in (
        {"init": "nonsense"},
        {"num_images": 0},
        {"num_images": "7"},
        {"num_images": True},
    ):
        with pytest.raises(ConfigError):
            dreamforge.draw(network, "wrong.h5", **facts, **wrong)
    assert not Path("wrong.h5").exists()


def test_attention_of_other_widths_has_three_matrices() -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)

    assert set(prunable_weights(attention)) == {
        *("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"),
    }


@pytest.mark.parametrize(
    "candidate",  # the largest take seconds, and are built of the same layers
    [each for each in torchvision_plain.CANDIDATES if each.name not in LARGEST],
    ids=lambda each: each.name,
)
def test_torchvisions_are_recognised(candidate) -> None:
    match = identify(build_skeleton(lambda: candidate.build(7)).state_dict())

    assert (match.architecture, match.num_classes, match.rivals) == (candidate.name, 7, ())


def test_a_squeezenet_is_loaded_from_its_state_dict(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = squeezenet1_1(num_classes=5).eval()
    save_network(tmp_path / "net.safetensors", theirs, {})
    teacher = load_teacher(
        tmp_path / "net.safetensors", image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3
    )

    assert teacher.spec.architecture == "squeezenet1_1"
    images = blobs(2)[0].repeat(1, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(images), theirs((images / 255 - 0.5) / 0.5))
