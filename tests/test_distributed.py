"""Of the real messages there is a test with real processes: tests/test_torchrun.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shared.cli import Tool
from shared.device import collective_backend
from shared.distributed import ALONE, Group, join, leave, one_voice
from shared.errors import ConfigError, DreamforgeError, IncompatibleError, SpokenForError
from shared.workers import Worker

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.HashStore:  # type: ignore[name-defined]
    """Where two processes would meet."""
    shared = dist.HashStore()  # type: ignore[attr-defined]
    monkeypatch.setattr("shared.distributed.rendezvous", lambda *_, **__: iter([(shared, 0, 2)]))
    return shared


def test_alone_nothing_is_copied_or_asked() -> None:
    batch, value = torch.arange(6), {"weights": torch.ones(2)}

    ALONE.add_up([batch])
    ALONE.wait()

    assert ALONE.leads
    assert ALONE.part(batch) is batch
    assert ALONE.share(value) is value
    assert ALONE.any(flag=True)
    assert not ALONE.any(flag=False)
    assert ALONE.agree(7)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_parts_are_the_batch(count: int) -> None:
    batch = torch.arange(10)
    parts = [Group(index=index, count=count).part(batch) for index in range(count)]

    assert torch.equal(torch.cat(parts).sort().values, batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_group_of_one_process_talks(store: object) -> None:
    group = join(store, Worker(), CPU)  # type: ignore[arg-type]
    # As if there were another one that brings nothing: messages really go through gloo.
    pair = Group(index=0, count=2)
    first, second = torch.ones(2, 3), torch.full((4,), 2.0, dtype=torch.float64)
    by_columns = torch.arange(6.0).view(3, 2).t()
    pair.add_up([first, second, by_columns])

    assert torch.equal(first, torch.ones(2, 3))
    assert torch.equal(by_columns, torch.arange(6.0).view(3, 2).t())
    assert pair.any(flag=True)
    assert not pair.any(flag=False)
    assert pair.agree(2**63 - 1)
    assert pair.share({"a": {"b": torch.ones(2)}, "c": 1})["c"] == 1
    pair.wait()
    assert group.count == 1
    leave(pair)
    assert not dist.is_initialized()


JOIN_AND_GO = """
import os, time, torch, torch.distributed as dist
from shared.distributed import Group, abandon, join, leave
from shared.workers import Worker

def gloo_threads():
    names = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
    return sum("gloo" in name for name in names)

join(dist.HashStore(), Worker(index=0, count=1), torch.device("cpu"))
import torch._dynamo  # as the first step of an optimiser does
assert gloo_threads() > 0
END
deadline = time.monotonic() + 10
while gloo_threads() and time.monotonic() < deadline:
    time.sleep(0.01)  # who is joined has ended, but Linux may list it for a moment longer
assert gloo_threads() == 0, gloo_threads()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize("end", ["leave(Group(index=0, count=2))", "abandon()"])
def test_who_has_gone_has_no_threads_of_the_group(end: str) -> None:
    """They would meet the end of the interpreter: now and then a finished run ended in SIGABRT."""
    command = [sys.executable, "-c", JOIN_AND_GO.replace("END", end)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_lost_process_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(*arguments: object, **options: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    monkeypatch.setattr(dist, "all_reduce", hang_up)
    monkeypatch.setattr(dist, "broadcast_object_list", hang_up)
    pair = Group(index=0, count=2)

    talks = (
        pair.wait,
        lambda: pair.share(1),
        lambda: pair.agree(1),
        lambda: pair.add_up([torch.ones(1)]),
    )
    for talk in talks:
        with pytest.raises(
            DreamforgeError, match=r"another process of this run ended.*without --overwrite"
        ):
            talk()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (IncompatibleError("x"), 4),
        (KeyboardInterrupt(), 130),
        (OSError("disk full"), 1),
        (RuntimeError("out of memory"), 1),
    ],
)
def test_only_the_first_that_fails_says_so(
    store: object, error: BaseException, exit_code: int
) -> None:
    with pytest.raises(type(error)) as first, one_voice():
        raise error
    with pytest.raises(SpokenForError) as second, one_voice():
        raise error

    assert first.value is error
    assert second.value.exit_code == exit_code


def test_who_is_spoken_for_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tool = Tool(name="tool")

    @tool.command()
    def fail() -> None:
        raise SpokenForError(IncompatibleError("x"))

    with pytest.raises(SystemExit) as ended:
        tool.main(["fail"])

    assert ended.value.code == 4
    assert capsys.readouterr() == ("", "")


def test_a_launcher_that_says_too_little_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(ConfigError, match=r"MASTER_ADDR.*; start with torchrun"), one_voice():
        raise AssertionError


def test_processes_on_the_cpu_talk_through_gloo() -> None:
    assert collective_backend(CPU, 2) == "gloo"
