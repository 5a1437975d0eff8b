import pytest

from shared.errors import ConfigError
from shared.workers import Worker, find_worker, speaks_for_all


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_alone_unless_told_otherwise():
    assert find_worker(None) == (Worker(index=0, count=1), None)


def test_torchrun_gives_rank_and_device(monkeypatch):
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert find_worker(None) == (Worker(index=9, count=16), 1)


def test_an_explicit_share_wins(monkeypatch):
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("WORLD_SIZE", "16")

    assert find_worker("1/2") == (Worker(index=1, count=2), None)


def test_nonsense_from_a_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "16")

    with pytest.raises(ConfigError, match="RANK"):
        find_worker(None)


@pytest.mark.parametrize(("rank", "speaks"), [(None, True), ("0", True), ("3", False)])
def test_one_of_a_launchers_processes_speaks_for_all(monkeypatch, rank, speaks):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "4")
    assert speaks_for_all() == speaks
    assert speaks_for_all("1/2")  # which asks no launcher
