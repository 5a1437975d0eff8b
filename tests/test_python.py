"""The functions for Python: networks at hand, with nothing to import and no file."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import IMAGE_SHAPE, NUM_CLASSES, blobs
from PIL import Image
from torch import Tensor, nn

import dreamforge
import recover
from shared.api import AssumptionWarning
from shared.architectures import build_network
from shared.architectures.held import held_network
from shared.at_hand import teacher_at_hand
from shared.checkpoint import save_network
from shared.errors import CheckpointError, ConfigError, IncompatibleError
from shared.images import to_pixels
from shared.progress import Progress
from shared.teacher import Teacher

pytestmark = pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")
FACTS = {"image_size": 8, "mean": 0.5, "std": 0.25}
QUICK = {"progress": False, "device": "cpu"}


class Own(nn.Module):
    """A network that no catalog knows, and whose constructor nobody could guess."""

    def __init__(self, teacher: nn.Module, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.inner = teacher

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.inner(inputs)
        return self.gain * logits


@pytest.fixture
def own(tiny_teacher: Teacher) -> Own:
    network = build_network("resnet8", num_classes=NUM_CLASSES)
    network.load_state_dict(tiny_teacher.network.state_dict())
    return Own(network, gain=1.25)


def synth(network: nn.Module | Path, out: Path, **options: object) -> dreamforge.DreamSet:
    chosen = {"num_images": 64, "steps": 4, "batch_size": 32, "compile": "off"}
    return dreamforge.synth(network, out, **{**FACTS, **QUICK, **chosen, **options})


def run(dreams: object, **options: object) -> recover.Recovered:
    return recover.run(dreams, **{**QUICK, "steps": 6, "batch_size": 32, **options})


def zeros(network: nn.Module) -> int:
    """Of the weights that pruning may take: those of convolutions and linear layers."""
    return sum(int((p == 0).sum()) for p in network.parameters() if p.ndim > 1)


def test_a_network_at_hand_goes_all_the_way_and_comes_back_as_its_class(
    own: Own, tmp_path: Path
) -> None:
    own.train()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}

    dreams = synth(own, tmp_path / "dreams.h5")
    found = run(dreams, teacher=own, sparsity=0.5, out=tmp_path / "student")

    assert type(found.network) is Own
    assert found.network.gain == 1.25
    report = found.report
    assert zeros(found.network) == report.num_weights - report.num_kept
    assert report.num_kept == report.num_weights - round(0.5 * report.num_weights)
    # What the caller holds is as it was: its mode, its weights, and it can be trained.
    assert own.training
    assert all(torch.equal(before[name], value) for name, value in own.state_dict().items())
    assert all(parameter.requires_grad for parameter in own.parameters())


def test_the_set_holds_the_answers_of_the_network_itself(own: Own, tmp_path: Path) -> None:
    dreams = synth(own, tmp_path / "dreams.h5")

    batch = dreams.select(torch.arange(64))
    own.eval()
    with torch.no_grad():
        expected = own((to_pixels(batch.images) - 0.5) / 0.25)

    assert torch.allclose(batch.logits.float(), expected, rtol=1e-2, atol=1e-2)  # float16
    assert dreams.manifest.teacher.architecture == "test_python:Own"


def test_sparsity_zero_gives_back_a_network_that_answers_the_same(own: Own, tmp_path: Path) -> None:
    dreams = synth(own, tmp_path / "dreams.h5")
    found = run(dreams, teacher=own, sparsity=0.0, steps=0, repair_images=0, out=tmp_path / "s")

    images = torch.randn(8, *IMAGE_SHAPE)
    with torch.no_grad():
        assert torch.equal(found.network(images), own.eval()(images))


def test_channels_and_levels_come_back_as_the_class_too(own: Own, tmp_path: Path) -> None:
    dreams = synth(own, tmp_path / "dreams.h5")
    slim = run(dreams, teacher=own, channels=0.5, out=tmp_path / "slim")
    levels = recover.run_sweep(
        tmp_path / "dreams.h5",
        teacher=own,
        sparsity=[0.9, 0.5],
        steps=6,
        batch_size=32,
        out=tmp_path / "levels",
        **QUICK,
    )

    assert type(slim.network) is Own
    assert sum(p.numel() for p in slim.network.parameters()) < sum(
        p.numel() for p in own.parameters()
    )
    assert [level.report.sparsity for level in levels] == [0.5, 0.9]
    assert [level.out.name for level in levels] == ["s0.5", "s0.9"]
    assert zeros(levels[0].network) < zeros(levels[1].network)


def test_the_same_call_again_reads_what_is_there(own: Own, tmp_path: Path) -> None:
    arguments = {"teacher": own, "sparsity": 0.5, "out": tmp_path / "student"}
    dreams = synth(own, tmp_path / "dreams.h5")
    first = run(dreams, **arguments)
    written = (tmp_path / "student" / "student.safetensors").stat().st_mtime_ns

    again = run(synth(own, tmp_path / "dreams.h5"), **arguments)

    assert (tmp_path / "student" / "student.safetensors").stat().st_mtime_ns == written
    assert again.report == first.report
    with pytest.raises(IncompatibleError, match="holds a finished run"):
        run(dreams, **{**arguments, "sparsity": 0.75})


def test_a_call_gives_the_bytes_of_the_command(teacher_file: Path, tmp_path: Path) -> None:
    dreams = synth(teacher_file, tmp_path / "dreams.h5", image_size=None, mean=None, std=None)
    found = run(dreams, teacher=teacher_file, sparsity=0.5, out=tmp_path / "python")
    words = ["--dreams", str(tmp_path / "dreams.h5"), "--teacher", str(teacher_file)]
    words += ["--sparsity", "0.5", "--steps", "6", "--batch-size", "32", "--device", "cpu"]
    # PyTorch's compiler takes as long to import as PyTorch does: nobody may begin to.
    script = (
        "import atexit, sys; from recover.cli import main; "
        "atexit.register(lambda: print('torch._dynamo' in sys.modules)); main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "run", *words, "--out", str(tmp_path / "command")],
        check=True,
        text=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # of several, sums are added in another order
    )

    assert ended.stdout.endswith("\nFalse\n")
    files = [tmp_path / name / "student.safetensors" for name in ("python", "command")]
    assert files[0].read_bytes() == files[1].read_bytes()
    reports = [json.loads((f.parent / "report.json").read_text()) for f in files]
    assert [r["num_kept"] for r in reports] == [found.report.num_kept] * 2
    assert reports[0]["config"] == reports[1]["config"]
    assert reports[0]["provenance"]["command"].startswith("recover.run(")


def test_images_at_hand_judge_a_student(own: Own, tmp_path: Path) -> None:
    images, labels = blobs(64, seed=5)
    dreams = synth(own, tmp_path / "dreams.h5")
    found = run(dreams, teacher=own, out=tmp_path / "s", eval_data=(images, labels))

    with torch.no_grad():
        answers = found.network((to_pixels(images) - 0.5) / 0.25).argmax(1)
    # How to repeat it: what was given, but no weights and no images.
    assert found.report.provenance["command"] == (
        f"recover.run(dreams={str(dreams.path)!r}, teacher=<Own>, out={str(tmp_path / 's')!r}, "
        "eval_data=<tuple>, preset='default', device='cpu', steps=6, batch_size=32)"
    )
    accuracy = found.report.recovered.accuracy
    assert accuracy == pytest.approx(float((answers == labels).float().mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 3, 9, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4)),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.full((4,), NUM_CLASSES)),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.full((4,), -1)),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)),
    ],
)
def test_images_that_are_none_are_refused(
    images: Tensor, labels: Tensor, own: Own, tmp_path: Path
) -> None:
    dreams = synth(own, tmp_path / "dreams.h5")
    with pytest.raises(IncompatibleError, match="eval_data: found"):
        run(dreams, teacher=own, out=tmp_path / "s", eval_data=(images, labels))
    assert not (tmp_path / "s").exists()


def test_a_known_network_has_its_name_and_needs_no_code(own: Own, tmp_path: Path) -> None:
    synth(own.inner, tmp_path / "dreams.h5", embed_teacher=True)

    found = run(tmp_path / "dreams.h5", sparsity=0.5, out=tmp_path / "s")

    assert found.report.provenance["teacher"]["architecture"] == "resnet8"
    assert zeros(found.network) == found.report.num_weights - found.report.num_kept


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_what_wraps_a_network_is_taken_off(wrap: object, own: Own) -> None:
    with teacher_at_hand(wrap(own.inner), image_size=8) as teacher:  # type: ignore[operator]
        assert teacher.spec.architecture == "resnet8"


def test_the_same_tensors_in_another_forward_are_another_network(own: Own) -> None:
    class Doubled(type(own.inner)):  # type: ignore[misc]
        def forward(self, inputs: Tensor) -> Tensor:
            return 2 * super().forward(inputs)

    own.inner.__class__ = Doubled
    with teacher_at_hand(own.inner, image_size=8) as teacher:
        assert teacher.spec.architecture.endswith("Doubled")
        images = torch.randn(4, *IMAGE_SHAPE)
        assert torch.equal(teacher.network(images), own.inner.eval()(images))


def test_two_networks_of_one_class_do_not_get_in_each_others_way(own: Own) -> None:
    other = Own(build_network("resnet14", num_classes=3), gain=2.0)
    with teacher_at_hand(own, image_size=8), teacher_at_hand(other, image_size=8) as inside:
        assert inside.spec.num_classes == 3
    with teacher_at_hand(own, image_size=8) as alone:
        assert alone.spec.num_classes == NUM_CLASSES
    assert held_network(alone.spec.architecture) is None  # nothing is kept of what was held


@pytest.mark.parametrize("as_file", [False, True], ids=["at hand", "file"])
def test_a_student_of_a_single_logit_answers_with_one(as_file: bool, tmp_path: Path) -> None:
    network = build_network("resnet8", num_classes=1).eval()
    save_network(tmp_path / "one.safetensors", network, {})
    teacher = tmp_path / "one.safetensors" if as_file else network

    dreams = synth(teacher, tmp_path / "dreams.h5")
    found = run(dreams, teacher=teacher, sparsity=0.0, steps=0, repair_images=0, out=tmp_path / "s")

    images = torch.randn(5, *IMAGE_SHAPE)
    with torch.no_grad():
        assert torch.equal(found.network(images), network(images))


def test_half_precision_is_inverted_in_float32(own: Own, tmp_path: Path) -> None:
    dreams = synth(own.half(), tmp_path / "dreams.h5")

    assert next(own.parameters()).dtype == torch.float16
    found = run(dreams, teacher=own, out=tmp_path / "s")
    assert next(found.network.parameters()).dtype == torch.float32


def test_it_works_outside_of_the_main_thread(own: Own, tmp_path: Path) -> None:
    results: list[recover.Recovered] = []

    def work() -> None:
        dreams = synth(own, tmp_path / "dreams.h5")
        results.append(run(dreams, teacher=own, out=tmp_path / "s"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert results[0].report.num_kept > 0


def test_what_was_assumed_is_warned_of_in_the_callers_name(own: Own, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dreamforge.synth(
            own, tmp_path / "d.h5", num_images=4, steps=1, image_size=8, compile="off", **QUICK
        )

    assumed = [w for w in caught if issubclass(w.category, AssumptionWarning)]
    assert any("mean" in str(w.message) for w in assumed)
    assert {Path(w.filename).name for w in assumed} == {"test_python.py"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 3}, "did you mean 'steps'"),
        ({"hurry": True}, "unexpected option 'hurry'"),
        ({"budget": "1m"}, "option 'budget'; 'budget' is the command line's alone"),
    ],
)
def test_an_option_that_does_not_exist_is_a_type_error(
    options: dict[str, object], message: str, own: Own, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        dreamforge.synth(own, tmp_path / "d.h5", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "3"}, "--steps: found '3', of type str; expected int"),
        ({"steps": True}, "of type bool; expected int"),
        ({"lr": "0.1"}, "expected float"),
        ({"flip": 1}, "expected bool"),
        ({"steps": 0}, "--steps: found 0, expected at least 1"),
        ({"preset": "best"}, "preset: found 'best', expected one of default"),
        ({"arch": "resnet8"}, "the network is at hand"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(
    options: dict[str, object], message: str, own: Own, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        dreamforge.synth(own, tmp_path / "d.h5", image_size=8, **options)
    assert not list(tmp_path.iterdir())


def test_networks_that_cannot_be_taken_are_refused_in_one_line(own: Own) -> None:
    locked = Own(own.inner, gain=1.0)
    locked.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="Own: cannot be copied"), teacher_at_hand(locked):
        pass

    class Packed(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:  # type: ignore[no-untyped-def]
            destination[prefix + "packed"] = (1, 2)

    quantised = nn.Sequential(own.inner, Packed(NUM_CLASSES, 2))
    with pytest.raises(CheckpointError, match="no tensor, as in quant"), teacher_at_hand(quantised):
        pass


NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, widths, num_classes):
        super().__init__()
        layers = []
        for before, width in zip((3, *widths), widths):
            convolution = nn.Conv2d(before, width, 3, 2, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, inputs):
        return self.head(self.layers(inputs).mean((2, 3)))
"""


@pytest.mark.slow
def test_the_page_on_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert "num_images=4096" in code
    quick = code.replace("num_images=4096", "num_images=64, steps=4")
    quick = re.sub(r"sparsity=([^=]*), out", r"sparsity=\1, steps=4, batch_size=16, out", quick)
    assert quick.count("steps=4") == 3
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    nets = importlib.import_module("nets")
    torch.save(nets.Net((8, 16, 16), 4).state_dict(), "net.pt")
    Path("photos").mkdir()
    Image.new("RGB", (40, 30), "teal").save("photos/one.png")

    space: dict[str, Any] = {}
    exec(compile(quick, "python.md", "exec"), space)

    assert type(space["found"].network) is nets.Net
    assert zeros(space["found"].network) == round(0.9 * space["found"].report.num_weights)
    assert [level.report.sparsity for level in space["levels"]] == [0.5, 0.8, 0.9]
    assert [len(space[name]) for name in ("images", "scenes")] == [1, 256]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_copy_that_computes_with_the_originals_layers_is_refused(own: Own, frozen: bool) -> None:
    inner = own.inner
    own.forward = lambda inputs: 2 * inner(inputs)  # type: ignore[method-assign]
    own.requires_grad_(not frozen)
    refused = pytest.raises(ConfigError, match="computes with the original's layers")
    with refused, teacher_at_hand(own, image_size=8):
        pass
    part = nn.Sequential(inner)
    head = inner.get_submodule("linear")
    inner.get_submodule("linear").forward = lambda x: nn.functional.linear(x, head.weight)  # type: ignore[method-assign,arg-type]
    with pytest.raises(ConfigError, match="make it a method"), teacher_at_hand(part, image_size=8):
        pass


def test_threads_do_not_see_each_others_networks(own: Own) -> None:
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with teacher_at_hand(Own(build_network("resnet14", num_classes=3), 2.0), image_size=8):
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    assert held_network("test_python:Own") is None
    with teacher_at_hand(own, image_size=8) as teacher:
        done.set()
        thread.join()
        kept = held_network(teacher.spec.architecture)
        assert kept is not None
        assert kept.gain == own.gain


def test_a_signal_at_the_very_end_of_the_steps_is_heard(own: Own, tmp_path: Path) -> None:
    dreams = synth(own, tmp_path / "dreams.h5")

    def interrupt(report: Progress) -> None:
        if report.unit == "steps" and report.done == report.total:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(dreams, teacher=own, out=tmp_path / "s", progress=interrupt)
    assert not (tmp_path / "s" / "report.json").exists()
    assert run(dreams, teacher=own, out=tmp_path / "s").report.num_kept > 0


def test_a_student_of_the_teachers_own_name_is_refused(own: Own, tmp_path: Path) -> None:
    dreams = synth(own, tmp_path / "dreams.h5")
    with pytest.raises(ConfigError, match="is the network at hand, with its size"):
        run(dreams, teacher=own, student="test_python:Own", out=tmp_path / "s")
    found = run(dreams, teacher=own, student="resnet8", steps=2, out=tmp_path / "other")
    assert type(found.network) is not Own


@pytest.mark.parametrize("levels", [[], 0.5, [None], "0.5,0.8"])
def test_levels_that_are_no_list_of_numbers_are_refused(
    levels: Any, own: Own, tmp_path: Path
) -> None:
    synth(own, tmp_path / "dreams.h5")
    with pytest.raises(ConfigError, match="sparsity: found"):
        recover.run_sweep(tmp_path / "dreams.h5", teacher=own, sparsity=levels, out=tmp_path / "s")


@pytest.mark.parametrize("start", ["no", [0.5], 0.0])
def test_whether_levels_start_warm_is_yes_or_no(start: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"warm_start: found .*; expected bool"):
        recover.run_sweep(tmp_path / "dreams.h5", warm_start=start)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_callers_modes_do_not_matter(around: Any, own: Own, tmp_path: Path) -> None:
    expected = run(synth(own, tmp_path / "a.h5"), teacher=own, out=tmp_path / "a")
    torch.set_default_dtype(torch.float64)
    try:
        with around():
            found = run(synth(own, tmp_path / "b.h5"), teacher=own, out=tmp_path / "b")
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)

    for one, other in zip(found.network.parameters(), expected.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_numbers_of_numpy_are_numbers(own: Own, tmp_path: Path) -> None:
    dreams = dreamforge.synth(
        own,
        tmp_path / "d.h5",
        num_images=np.int64(8),
        steps=2,
        lr=np.float32(0.125),
        image_size=(np.int64(8), np.int64(8)),
        mean=np.full(3, 0.5),
        std=np.float64(0.25),
        compile="off",
        **QUICK,
    )
    assert dreams.num_images == 8
    assert dreams.manifest.synthesis["lr"] == 0.125
    assert dreams.manifest.teacher.std == (0.25,) * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 8.0}, "image_size: found 8.0, expected pixels"),
        ({"image_size": True}, "image_size: found True"),
        ({"mean": "0.5,0.5,0.5"}, "mean: found '0.5,0.5,0.5'"),
        ({"std": (None, 0.5, 0.5)}, "std: found"),
        ({"class_names": {0: "a"}}, "class_names: found a dict"),
        ({"class_names": ["a", "a", "b", "c"]}, "a name twice"),
        ({"preset": ["default"]}, "preset: found"),
    ],
)
def test_facts_that_make_no_sense_are_refused(
    options: dict[str, object], message: str, own: Own, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        dreamforge.synth(own, tmp_path / "d.h5", **{"image_size": 8, **options})


def test_class_names_may_be_a_file_as_on_the_command_line(own: Own, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    dreams = synth(own, tmp_path / "d.h5", class_names=str(tmp_path / "names.txt"))
    assert dreams.manifest.teacher.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize("source", [{"a": 1}, None, nn.Linear])
def test_what_is_no_teacher_is_refused(source: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher: found a .*, expected a network, or the path"):
        dreamforge.synth(source, tmp_path / "d.h5")


def test_a_path_of_nothing_is_none(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, call in {
        "teacher": lambda: dreamforge.synth("", tmp_path / "d.h5"),
        "out": lambda: dreamforge.synth(own, ""),
        "dreams": lambda: recover.run(""),
    }.items():
        with pytest.raises(ConfigError, match=f"{name}: found nothing, expected"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", [3, (torch.zeros(1),), [1, 2, 3]])
def test_what_are_no_images_is_refused(source: Any, own: Own, tmp_path: Path) -> None:
    dreams = synth(own, tmp_path / "dreams.h5")
    with pytest.raises(ConfigError, match="eval_data: found a"):
        run(dreams, teacher=own, eval_data=source, out=tmp_path / "s")


@pytest.mark.parametrize("package", ["dreamforge", "recover"])
def test_importing_a_package_does_not_import_torch(package: str) -> None:
    code = f"import sys, {package}; assert 'torch' not in sys.modules; {package}.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'recover' has no attribute 'walk'"):
        recover.walk  # noqa: B018
