"""The commands that torchrun may start, really started by it, killed and called again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from recover_fixtures import blob_dreams

from recover.cli import main
from recover.importance import prunable_weights
from shared.checkpoint import load_state, to_safetensors
from shared.teacher import Teacher

ROOT = Path(__file__).parent.parent
SECONDS = 120.0  # a launch takes a few; a busy machine may take many
QUICK = [
    *("--batch-size", "16", "--prune-every", "4", "--repair-images", "32", "--lr", "0.001"),
    *("--device", "cpu", "--precision", "float32"),
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc"),
]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    blob = to_safetensors(tiny_teacher.network, tiny_teacher.spec.to_json())
    return blob_dreams(tmp_path_factory.mktemp("set"), tiny_teacher, teacher=blob).path


@contextmanager
def torchrun(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Two processes of recover; whatever happens, none is left behind."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*launch, "--nproc-per-node", "2", "-m", "recover", *arguments],
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # it ends its children, too
            process.wait(SECONDS)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def process_of_rank(launcher: int, rank: int) -> int:
    """The process number of one of torchrun's children."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


def own_errors(path: Path) -> list[str]:
    """What recover itself said went wrong; torchrun has a lot to add."""
    return [line for line in path.read_text().splitlines() if "recover: error:" in line]


def call(arguments: list[str]) -> None:
    """One process, this one."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr


def test_a_run_survives_its_processes(tiny_teacher: Teacher, dreams: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "two", tmp_path / "log"
    checkpoint = out / "checkpoint.pt"
    often = ["--checkpoint-every", "1e-9"]
    arguments = ["run", "--dreams", str(dreams), *QUICK, "--steps", "100", "--sparsity", "0.8"]
    together = [*arguments, "--out", str(out), *often]

    with torchrun(together, log) as launcher:
        wait_for(checkpoint.exists, launcher)
        os.kill(process_of_rank(launcher.pid, 1), signal.SIGKILL)
        assert launcher.wait(SECONDS) != 0
    (line,) = own_errors(log)
    assert "another process of this run ended" in line
    first = load_state(checkpoint)["step"]

    with torchrun(together, log) as launcher:
        written = checkpoint.stat().st_mtime_ns
        wait_for(lambda: checkpoint.stat().st_mtime_ns > written, launcher)
        launcher.terminate()
        assert launcher.wait(SECONDS) != 0
    (line,) = own_errors(log)
    assert "interrupted; the same command goes on" in line
    assert 0 < first < load_state(checkpoint)["step"] < 100

    call([*arguments, "--out", str(out)])  # the rest in one process
    call([*arguments, "--out", str(tmp_path / "one")])
    found, expected = (
        safetensors.torch.load_file(tmp_path / name / "student.safetensors")
        for name in ("two", "one")
    )
    for name in prunable_weights(tiny_teacher.network):
        assert found[name].count_nonzero() == expected[name].count_nonzero()
        assert (found[name] - expected[name]).norm() < 1e-3 * expected[name].norm()
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert [row["step"] for row in rows[0]] == [50, 100]
    assert rows[0] == [pytest.approx(row, rel=1e-3) for row in rows[1]]


def test_a_sweep_survives_a_worker(dreams: Path, tmp_path: Path) -> None:
    arguments = ["sweep", "--dreams", str(dreams), *QUICK, "--steps", "60", "--sparsity", "0.5,0.9"]
    together = [*arguments, "--out", str(tmp_path / "two")]
    checkpoint = tmp_path / "two" / "s0.9" / "checkpoint.pt"

    with torchrun([*together, "--checkpoint-every", "1e-9"], tmp_path / "log") as launcher:
        wait_for(checkpoint.exists, launcher)
        os.kill(process_of_rank(launcher.pid, 1), signal.SIGKILL)
        assert launcher.wait(SECONDS) != 0
    assert not (tmp_path / "two" / "s0.9" / "report.json").exists()

    with torchrun(together, tmp_path / "log") as launcher:
        assert launcher.wait(SECONDS) == 0, (tmp_path / "log").read_text()
    assert not own_errors(tmp_path / "log")
    torch.set_num_threads(1)  # as torchrun does for its children
    call([*arguments, "--no-warm-start", "--out", str(tmp_path / "one")])
    for level in ("s0.5", "s0.9"):
        found, expected = (
            (tmp_path / name / level / "student.safetensors").read_bytes()
            for name in ("two", "one")
        )
        assert found == expected
