"""Several processes on one machine: the same bytes, one line of progress, and no orphans."""

import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamforge import processes
from dreamforge.cli import main
from dreamforge.config import SynthesisConfig
from dreamforge.forge import SynthesisResult, synthesize
from dreamforge.processes import Job, synthesize_on
from shared.errors import ConfigError, DreamforgeError, IncompatibleError, OutOfMemoryError
from shared.files import sha256_of
from shared.progress import Progress
from shared.teacher import Teacher, load_teacher
from shared.workers import Worker

CPU = torch.device("cpu")
FACTS = {"license": "CC0-1.0", "device": ""}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.h5"))}


@pytest.fixture
def job(teacher_file: Path, tiny_config: SynthesisConfig, tmp_path: Path) -> Job:
    config = tiny_config.resolve((3, 8, 8))
    out = tmp_path / "dreams.h5"
    return Job(teacher=teacher_file, teacher_options={}, config=config, out=out, provenance=FACTS)


@pytest.fixture(autouse=True)
def _same_signals_and_threads():
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


@pytest.fixture
def alone(tiny_teacher: Teacher, tiny_config: SynthesisConfig, tmp_path: Path) -> dict[str, str]:
    """The digests of the shards that one process makes."""
    synthesize(tiny_teacher, tiny_config, tmp_path / "alone" / "dreams.h5", CPU)
    found = digests(tmp_path / "alone")
    return {name: digest for name, digest in found.items() if name != "dreams.h5"}


def said(job: Job, worker: Worker = Worker()) -> list[Any]:  # noqa: B008
    """What a child says to its parent, here without a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    processes._work(job, worker, "cpu", 1, theirs)
    theirs.close()
    messages = []
    while True:
        try:
            messages.append(ours.recv())
        except EOFError:
            return messages


# Parts of shares.


@pytest.mark.parametrize("counts", [(1, 1), (3, 3), (2, 5), (8, 1, 4)])
def test_machines_with_different_numbers_of_devices_make_every_piece_once(counts):
    made = [
        piece
        for machine, count in enumerate(counts)
        for number in range(count)
        for piece in range(50)
        if Worker(index=machine, count=len(counts)).part(number, count).makes(piece)
    ]

    assert sorted(made) == list(range(50))


# What a child does and says.


def test_a_child_makes_its_share_and_tells_how_it_goes(job: Job, alone):
    *reports, result = said(job, Worker(index=1, count=2))

    assert reports[-1].done == reports[-1].total == 8
    assert (result.num_made, result.num_shards, result.finished) == (1, 3, False)
    assert digests(job.out.parent) == {
        "dreams-00001-of-00003.h5": alone["dreams-00001-of-00003.h5"]
    }
    assert said(job, Worker(index=0, count=2))[-1].finished


def test_the_child_that_writes_the_index_names_its_own_device(job: Job):
    from shared.shards import read_index

    said(job)
    assert "thread" in read_index(job.out).manifest.provenance["device"]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (IncompatibleError("another teacher"), IncompatibleError, "another teacher"),
        (MemoryError(), OutOfMemoryError, "out of memory"),
        (RuntimeError("[..] DefaultCPUAllocator: no"), OutOfMemoryError, "out of memory"),
        (PermissionError(13, "Permission denied", "/there"), DreamforgeError, "/there: Permission"),
    ],
)
def test_a_child_that_fails_says_why(job: Job, monkeypatch, error, kind, words):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(processes, "synthesize", fail)
    (message,) = said(job)
    assert type(message) is kind
    assert words in str(message)


def test_a_bug_leaves_a_traceback(job: Job, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(processes, "synthesize", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        said(job)


def test_a_child_whose_parent_is_gone_ends_and_leaves_nothing_half_written(job: Job):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    ours.close()

    with pytest.raises(SystemExit) as ended:
        processes._work(job, Worker(), "cpu", 1, theirs)
    assert ended.value.code == 130
    assert not job.out.exists()
    assert not list(job.out.parent.glob(".*.tmp"))


# What the parent makes of it.


class Ended:
    """A process that is over."""

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode

    def join(self, timeout: float | None = None) -> None:
        pass

    def terminate(self) -> None:
        pass

    def is_alive(self) -> bool:
        return False


def report(done: float, total: float) -> Progress:
    return Progress(stage="synthesize", done=done, total=total, unit="images")


def result_of(job: Job, **facts) -> SynthesisResult:
    known = {
        "num_images": 24,
        "num_shards": 3,
        "num_made": 1,
        "seconds": 1.0,
        "finished": False,
        "notes": (),
    }
    return SynthesisResult(out=job.out, quality={}, **(known | facts))


@pytest.fixture
def scripted(job: Job, monkeypatch):
    """Run children that say what they are told to, and end with an exit code."""

    def run(*scripts: tuple[list[Any], int]) -> tuple[SynthesisResult, list[Progress]]:
        def start(number: int, devices: list[str], job: Job, worker: Worker) -> Any:
            messages, exitcode = scripts[number]
            ours, theirs = multiprocessing.Pipe(duplex=False)
            for message in messages:
                theirs.send(message)
            theirs.close()
            assert isinstance(ours, Connection)
            process: Any = Ended(exitcode)
            return processes._Child(f"process {number}", process, ours, report(0, 12))

        monkeypatch.setattr(processes, "_start", start)
        shown: list[Progress] = []
        return synthesize_on(["cpu"] * len(scripts), job, progress=shown.append), shown

    return run


def test_results_and_progress_are_sums(job: Job, scripted):
    first = result_of(job, num_made=2, notes=("made again: x",))
    last = result_of(job, finished=True, notes=("made again: x", "batch 2 diverged"))
    result, shown = scripted(([report(8, 16), report(16, 16), first], 0), ([report(8, 8), last], 0))

    assert (result.num_made, result.finished) == (3, True)
    assert result.notes == ("made again: x", "batch 2 diverged")
    assert (shown[-1].done, shown[-1].total) == (24, 24)
    assert [r.done for r in shown] == sorted({r.done for r in shown})
    assert all(r.facts["processes"] == 2 for r in shown)


def test_a_child_without_work_does_not_hold_up_the_bar(job: Job, scripted):
    _, shown = scripted(([report(8, 8), result_of(job)], 0), ([result_of(job, finished=True)], 0))

    assert (shown[-1].done, shown[-1].total) == (8, 8)


def test_other_stages_are_passed_on(job: Job, scripted):
    other = Progress(stage="compile", done=0, total=1, unit="networks")
    _, shown = scripted(([other, result_of(job, finished=True)], 0))

    assert shown == [other]


@pytest.mark.parametrize(("exitcode", "how"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (1, "code 1")])
def test_a_dead_child_is_named_and_costs_its_shards_only(job: Job, scripted, exitcode, how):
    dead = [report(4, 12)]
    with pytest.raises(
        DreamforgeError, match=rf"^process 1: ended early \(.*{how}\); only"
    ) as error:
        scripted(([result_of(job)], 0), (dead, exitcode))

    assert "same command" in str(error.value)
    assert error.value.exit_code == 1


def test_a_set_that_is_whole_after_all_is_no_failure(job: Job, scripted):
    result, _ = scripted(([result_of(job, finished=True)], 0), ([], -9))

    assert result.finished


def test_what_all_children_say_is_said_once(scripted):
    error = IncompatibleError("dreams.h5: begun with other arguments")
    with pytest.raises(IncompatibleError, match=r"^dreams.h5: begun with other arguments$"):
        scripted(([error], 0), ([error], 0))


# Real processes.


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(runner, teacher_file, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    small = [
        "--n",
        "12",
        "--batch-size",
        "4",
        "--shard-size",
        "4",
        "--steps",
        "3",
        "--device",
        "cpu",
    ]

    def synth(folder: str, *more: str) -> dict[str, Any]:
        words = ["synth", "--teacher", str(teacher_file), "--device", "cpu", *small, *more]
        done = runner.invoke(main, [*words, "--json", "--out", str(tmp_path / folder / "d.h5")])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    both = synth("both", "--gpus", "2")
    alone = synth("alone", "--processes", "1")

    assert both["num_shards_made"] == alone["num_shards_made"] == 3
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")
    assert synth("both", "--gpus", "2")["num_shards_made"] == 0
    assert not list((tmp_path / "both").glob(".*"))


@pytest.mark.slow
def test_a_killed_process_and_the_same_call_again_give_the_bytes_of_one(
    job: Job, alone, monkeypatch
):
    start = processes._start

    def start_and_kill_the_second(number: int, *others: Any) -> Any:
        child = start(number, *others)
        if number == 1:
            assert child.process.pid
            os.kill(child.process.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(processes, "_start", start_and_kill_the_second)
    with pytest.raises(DreamforgeError, match=r"process 1 of 2 \(cpu\): ended early \(SIGKILL\)"):
        synthesize_on(["cpu", "cpu"], job)
    assert set(digests(job.out.parent)) == {
        "dreams-00000-of-00003.h5",
        "dreams-00002-of-00003.h5",
    }

    result = synthesize(load_teacher(job.teacher), job.config, job.out, CPU)
    assert (result.num_made, result.finished) == (1, True)
    assert {
        name: found for name, found in digests(job.out.parent).items() if name in alone
    } == alone


@pytest.mark.slow
def test_an_interruption_ends_all_children(job: Job):
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_on(["cpu", "cpu"], job, progress=interrupt)
    assert not multiprocessing.active_children()
    assert not list(job.out.parent.glob(".*.tmp"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# The option.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpus", "all"], "no CUDA device"),
        (["--gpus", "0,1"], "no CUDA device"),
        (["--gpus", "0"], "no CUDA device"),
        (["--gpus", "-1"], "expected --gpus all"),
        (["--gpus", "two"], "expected --gpus all"),
        (["--gpus", "2", "--device", "cuda:0"], "expected --gpus all"),
    ],
)
def test_what_makes_no_sense_is_one_line(runner, teacher_file, tmp_path, arguments, words):
    out = ["--out", str(tmp_path / "d.h5")]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    done = runner.invoke(main, ["synth", "--teacher", str(teacher_file), *out, *device, *arguments])

    assert done.exit_code == ConfigError.exit_code, done.output
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_torchrun_and_gpus_are_not_mixed(runner, teacher_file, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1" if name != "WORLD_SIZE" else "2")
    done = runner.invoke(main, ["synth", "--teacher", str(teacher_file), "--gpus", "2"])

    assert done.exit_code == 2
    assert "torchrun" in done.stderr
