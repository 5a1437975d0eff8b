"""What CUDA asks of the code, on a simulated device: one path for both, and no waiting in a step.

A real device is needed for its kernels, its memory, bfloat16 and speed.
"""

import json
from collections import Counter
from pathlib import Path

import click
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from conftest import NUM_CLASSES
from recover_fixtures import blob_dreams, blob_photos
from safetensors.torch import load_file
from simulated_cuda import CUDA, SimulatedTensor, simulated_cuda
from torch import nn

from dreamforge import engine, fast_engine
from dreamforge.cli import main as dreamforge
from recover.cli import main as recover
from shared.architectures import build_network
from shared.checkpoint import to_safetensors
from shared.dreamset import DreamSet
from shared.teacher import Teacher

SYNTH = ("--n", "16", "--batch-size", "8", "--steps", "3", "--precision", "float32")
RUN = (
    *("--steps", "6", "--batch-size", "16", "--prune-every", "2", "--repair-images", "32"),
    *("--precision", "float32"),
)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    blob = to_safetensors(tiny_teacher.network, tiny_teacher.spec.to_json())
    return blob_dreams(tmp_path_factory.mktemp("set"), tiny_teacher, teacher=blob).path


@pytest.fixture(scope="module")
def photos(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blob_photos(tmp_path_factory.mktemp("real"), tiny_teacher, 16)


def run(tool: click.Command, *arguments: object) -> str:
    result = CliRunner().invoke(tool, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def on_both(tool: click.Command, *arguments: object, out: Path) -> tuple[Path, Path]:
    """Run a command that writes ``--out`` on the CPU and on the simulated device."""
    on_cpu, on_cuda = (out.with_name(f"{device}-{out.name}") for device in ("cpu", "cuda"))
    run(tool, *arguments, "--device", "cpu", "--out", on_cpu)
    with simulated_cuda():
        run(tool, *arguments, "--device", "cuda", "--out", on_cuda)
    return on_cpu, on_cuda


def test_the_simulated_device_computes_what_the_cpu_computes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    inputs = torch.randn(5, 3, 6, 6)
    network(inputs).square().sum().backward()
    expected = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    with simulated_cuda():
        network.to("cuda")
        network(inputs.to("cuda")).square().sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        assert all(grad is not None and grad.device == CUDA for grad in gradients)
        found = [grad.cpu() for grad in gradients if grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: here.add_(there),
        lambda here, there: there @ here,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.where(here > 0, there, 0.0),
        lambda here, there: F.cross_entropy(there, here[0].long()),
        lambda here, there: F.conv1d(there[None], here[:, :, None]),
        lambda here, there: here[there.long()],
        lambda here, there: here.sum().add_(there.sum()),
    ],
)
def test_the_simulated_device_refuses_operands_on_two_devices(mixed) -> None:
    with simulated_cuda(), pytest.raises(RuntimeError, match="same device"):
        mixed(torch.ones(3, 3), torch.ones(3, 3, device="cuda"))


def test_the_simulated_device_allows_what_cuda_allows() -> None:
    with simulated_cuda():
        there = torch.arange(4.0, device="cuda")

        assert there.device == CUDA
        assert isinstance(there * torch.tensor(2.0), SimulatedTensor)
        assert there[torch.tensor([1, 3])].tolist() == [1, 3]
        assert torch.zeros(4).copy_(there).tolist() == [0, 1, 2, 3]
        assert there.to("cuda") is there
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_the_simulated_device_counts_where_the_host_waits() -> None:
    with simulated_cuda() as simulation:
        there = torch.arange(4.0, device="cuda")
        there = (there.softmax(0) + torch.ones(4).to("cuda")).requires_grad_()
        there.square().sum().backward()
        assert not +simulation.waits

        there.sum().item()
        there.cpu()
        there[there > 1]

        assert simulation.waits.total() == 3


def test_without_the_simulation_there_is_no_such_device() -> None:
    with simulated_cuda():
        assert torch.cuda.is_available()

    assert torch.cuda.device_count() == 0 or torch.ones(1, device="cuda").numel() == 1
    assert not torch.__future__.get_swap_module_params_on_conversion()
    assert type(torch.ones(1) + 1) is torch.Tensor


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--init", "pink", "--space", "pixels", "--jitter-kind", "roll", "--targets", "soft"],
        ["--jitter-kind", "resized-crop", "--bn-distance", "l2", "--targets", "pairs"],
        ["--method", "adaptive", "--opponent-sparsity", "0.5,0.8"],
        ["--method", "generator", "--meta-batches", "3"],
        ["--preset", "yin2020-cifar10", "--diversity-weight", "1"],
        ["--preset", "tripurwar2025"],
        ["--answers", "sigmoid"],
    ],
    ids=[
        *("default", "pixels", "crops", "adaptive", "generator", "yin2020", "tripurwar2025"),
        "sigmoids",
    ],
)
def test_dreams_are_made_by_the_same_lines(
    options: list[str], teacher_file: Path, tmp_path: Path
) -> None:
    made = on_both(
        dreamforge, "synth", "--teacher", teacher_file, *options, *SYNTH, out=tmp_path / "dreams.h5"
    )
    on_cpu, on_cuda = (DreamSet.open(path).read(0, 16) for path in made)

    assert torch.equal(on_cuda.images, on_cpu.images)
    assert torch.equal(on_cuda.logits, on_cpu.logits)
    assert torch.equal(on_cuda.loss, on_cpu.loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--schedule", "one-shot", "--reconstruct", "least-squares", "--repair", "batch-norm"],
        ["--allocation", "erk", "--mix", "both", "--ema", "0.9", "--keep-last"],
        ["--allocation", "lamp", "--mix", "mixup", "--standardize-logits", "--final-repair"],
        ["--allocation", "uniform", "--importance", "random", "--bn-mode", "frozen"],
        ["--importance", "fisher"],
        ["--preset", "tripurwar2025"],
        ["--student", "resnet14", "--sparsity", "0"],
        ["--channels", "0.5", "--sparsity", "0", "--importance", "fisher", "--ema", "0.9"],
    ],
    ids=[
        *("default", "one-shot", "erk", "lamp", "uniform", "fisher", "tripurwar2025", "student"),
        "channels",
    ],
)
def test_students_are_taught_by_the_same_lines(
    options: list[str], dreams: Path, photos: Path, tmp_path: Path
) -> None:
    made = on_both(
        *(recover, "run", "--dreams", dreams, "--eval-data", photos, "--sparsity", "0.8"),
        *options,
        *RUN,
        out=tmp_path / "recovered",
    )
    on_cpu, on_cuda = (load_file(folder / "student.safetensors") for folder in made)
    reports = [json.loads((folder / "report.json").read_text()) for folder in made]

    assert all(torch.equal(on_cuda[name], tensor) for name, tensor in on_cpu.items())
    assert reports[0]["recovered"] == reports[1]["recovered"]
    assert reports[1]["provenance"]["device"] == "simulated"


@pytest.mark.slow
def test_students_of_sigmoids_are_taught_by_the_same_lines(
    teacher_file: Path, tmp_path: Path
) -> None:
    dreams = tmp_path / "set" / "dreams.h5"
    words = ("--answers", "sigmoid", *SYNTH, "--device", "cpu", "--out", dreams)
    run(dreamforge, "synth", "--teacher", teacher_file, *words)

    made = on_both(
        *(recover, "run", "--dreams", dreams, "--teacher", teacher_file, *RUN),
        out=tmp_path / "recovered",
    )

    on_cpu, on_cuda = (load_file(folder / "student.safetensors") for folder in made)
    assert all(torch.equal(on_cuda[name], tensor) for name, tensor in on_cpu.items())
    assert len(on_cpu["linear.bias"]) == 4


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(
    dreams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    command = ["run", "--dreams", dreams, *RUN, "--checkpoint-every", "1e-9", "--device", "cuda"]
    with simulated_cuda():
        run(recover, *command, "--out", tmp_path / "whole")
        with monkeypatch.context() as patched:
            patched.setattr("recover.course._steps_done", fail)  # after the last checkpoint
            result = CliRunner().invoke(
                recover, [*map(str, command), "--out", str(tmp_path / "stopped")]
            )
        assert result.exit_code == 130
        run(recover, *command, "--out", tmp_path / "stopped")
    whole, stopped = (
        load_file(tmp_path / name / "student.safetensors") for name in ("whole", "stopped")
    )

    assert all(torch.equal(stopped[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_sweeps_prunings_and_judgements_run_there(
    dreams: Path, photos: Path, tmp_path: Path
) -> None:
    pair = on_both(
        recover, "sweep", "--dreams", dreams, "--sparsity", "0.5,0.8", *RUN, out=tmp_path / "sweep"
    )
    levels = [
        sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
        for folder in pair
    ]
    assert levels[0] == levels[1]
    assert len(levels[0]) == 2
    pruned = on_both(
        *(recover, "prune", "--dreams", dreams, "--sparsity", "0.8", "--sensitivity-images", "16"),
        out=tmp_path / "pruned",
    )
    on_cpu, on_cuda = (load_file(folder / "student.safetensors") for folder in pruned)
    assert all(torch.equal(on_cuda[name], tensor) for name, tensor in on_cpu.items())
    judge = ["eval", pruned[0], "--dreams", dreams, "--eval-data", photos, "--json"]
    judged = json.loads(run(recover, *judge, "--device", "cpu"))
    with simulated_cuda():
        assert json.loads(run(recover, *judge, "--device", "cuda")) == judged


def test_sets_are_imported_and_verified_there(
    teacher_file: Path, photos: Path, tmp_path: Path
) -> None:
    pair = on_both(
        dreamforge, "import", photos, "--teacher", teacher_file, out=tmp_path / "real.h5"
    )
    on_cpu, on_cuda = (DreamSet.open(path).read(0, 16) for path in pair)
    assert torch.equal(on_cuda.logits, on_cpu.logits)
    with simulated_cuda():
        run(dreamforge, "verify", pair[1], "--teacher", teacher_file, "--device", "cuda")


def added_waits(tool: click.Command, *arguments: object, steps: int, out: Path) -> Counter[str]:
    """What ``steps`` more steps add to the host's waits for the device."""
    counts = []
    for number in (steps, 2 * steps):
        with simulated_cuda() as simulation:
            there = out.with_name(f"{number}-{out.name}")
            run(tool, *arguments, "--steps", number, "--device", "cuda", "--out", there)
        counts.append(simulation.waits)
    assert +counts[0]  # logits and images come back at the end
    return counts[1] - counts[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [[], ["--method", "adaptive"], ["--method", "generator", "--meta-batches", "1"]],
    ids=["inversion", "adaptive", "generator"],
)
def test_no_step_of_an_inversion_waits_for_the_device(
    options: list[str], teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (engine, fast_engine):
        monkeypatch.setattr(module, "SECONDS_BETWEEN_READS", 1e9)
    command = ["synth", "--teacher", teacher_file, "--n", "8", *options]

    assert not added_waits(dreamforge, *command, steps=5, out=tmp_path / "dreams.h5")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--mix", "both", "--ema", "0.9"]], ids=["default", "mix"])
def test_no_step_of_a_distillation_waits_for_the_device(
    options: list[str], dreams: Path, tmp_path: Path
) -> None:
    command = ["run", "--dreams", dreams, "--batch-size", "16", "--repair-images", "32", *options]
    command += ["--prune-every", "1000"]  # choosing masks waits, and is no part of every step

    assert not added_waits(recover, *command, steps=10, out=tmp_path / "recovered")


# Of https://pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html: operations
# whose gradients add up in any order on CUDA.
OTHER_BITS_EACH_TIME = {
    "aten._adaptive_avg_pool2d_backward.default",
    "aten.adaptive_max_pool2d_backward.default",
    "aten.bincount.default",
    "aten.cumsum.default",
    "aten.grid_sampler_2d_backward.default",
    "aten.histc.default",
    "aten.index_add.default",
    "aten.index_add_.default",
    "aten.put_.default",
    "aten.reflection_pad2d_backward.default",
    "aten.replication_pad2d_backward.default",
    "aten.scatter_add.default",
    "aten.scatter_add_.default",
    "aten.scatter_reduce.two",
    "aten.upsample_bicubic2d_backward.default",
    "aten.upsample_bilinear2d_backward.default",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--jitter-kind", "resized-crop", "--method", "adaptive"],
        ["--jitter-kind", "roll", "--space", "pixels"],
        ["--method", "generator", "--meta-batches", "1"],
    ],
    ids=["crop", "resized-crop", "roll", "generator"],
)
def test_inversion_has_no_operation_that_gives_other_bits_each_time(
    options: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "teacher.pt"
    torch.save(build_network("resnet18", num_classes=NUM_CLASSES).state_dict(), path)
    facts = ["--image-size", "32", "--mean", "0.5", "--std", "0.25", *SYNTH]
    with simulated_cuda() as simulation:
        command = ["synth", "--teacher", path, *facts, *options, "--device", "cuda"]
        run(dreamforge, *command, "--out", tmp_path / "dreams.h5")
    used = set(simulation.operations)
    # Crops take every pixel once at most, so there is nothing to add up.
    used.discard("aten.scatter_add.default")

    assert "aten.convolution_backward.default" in used
    assert not used & OTHER_BITS_EACH_TIME


@pytest.mark.slow
def test_a_mobile_network_is_inverted_there(tmp_path: Path) -> None:
    """Grouped and strided convolutions take another way on the CPU (shared/depthwise.py)."""
    network = build_network("cifar_mobilenet_v2", num_classes=NUM_CLASSES)
    path = tmp_path / "mobile.pt"
    torch.save(network.state_dict(), path)
    facts = ["--arch", "cifar_mobilenet_v2", "--image-size", "16", "--mean", "0.5", "--std", "0.25"]
    made = on_both(
        dreamforge, "synth", "--teacher", path, *facts, *SYNTH, out=tmp_path / "dreams.h5"
    )
    on_cpu, on_cuda = (DreamSet.open(path).read(0, 16) for path in made)
    difference = (on_cpu.images.int() - on_cuda.images.int()).abs()

    assert difference.float().mean() < 1
