import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import grid
import runner

from shared.errors import ConfigError, DreamforgeError, IncompatibleError


class Recorder:
    """A runner that notes commands, and leaves what they would leave."""

    def __init__(self):
        self.commands = []

    def run(self, name, command):
        self.commands.append(list(command))
        out = Path(command[command.index("--out") + 1])
        if out.suffix == ".h5":
            out.write_bytes(b"")
        else:
            names = [f"s{level}" for level in command[command.index("--sparsity") + 1].split(",")]
            for folder in [out / name for name in names] if command[1] == "sweep" else [out]:
                folder.mkdir(parents=True)
                (folder / "report.json").write_text("{}")


def make_grid(out, **changes):
    source = grid.Source(name="noise", make=("transfer_sets", "draw"), recover=("--steps", "5"))
    facts = {"sources": (source,), "levels": (0.5, 0.9), "seeds": (0, 1), "common": ("--x", "y")}
    return grid.Grid(out=out, **facts | changes)


def test_each_set_is_made_once_and_finished_cells_are_not_run_again(tmp_path):
    cells, recorder = make_grid(tmp_path), Recorder()
    cells.tasks(recorder)["noise, seed 0, sparsity 0.5"]()
    for task in cells.tasks(recorder).values():
        task()

    made = [command for command in recorder.commands if command[0] == "transfer_sets"]
    runs = [command for command in recorder.commands if command[0] == "recover"]
    assert [command[2:4] for command in made] == [["--seed", "0"], ["--seed", "1"]]
    assert len(runs) == 4
    assert runs[0] == [
        *("recover", "run", "--x", "y", "--steps", "5", "--dreams", str(tmp_path / "noise-0.h5")),
        *("--sparsity", "0.5", "--seed", "0", "--out", str(tmp_path / "noise-0-s0.5")),
    ]
    assert cells.tasks(recorder) == {}


def test_a_sweep_of_each_set_runs_all_its_levels_with_one_command(tmp_path):
    cells, recorder = make_grid(tmp_path, sweeps=True, seeds=(0,)), Recorder()
    tasks = cells.tasks(recorder)
    for task in tasks.values():
        task()

    assert list(tasks) == ["noise, seed 0"]
    assert recorder.commands[1:] == [
        [
            *("recover", "sweep", "--x", "y", "--steps", "5"),
            *("--dreams", str(tmp_path / "noise-0.h5"), "--sparsity", "0.5,0.9", "--seed", "0"),
            *("--out", str(tmp_path / "noise-0-sweep")),
        ]
    ]
    assert cells.tasks(recorder) == {}
    # A run by itself is another figure than a level of a sweep.
    assert len(make_grid(tmp_path, seeds=(0,)).tasks(recorder)) == 2


def test_a_sweep_of_which_a_level_is_missing_goes_on(tmp_path):
    cells, recorder = make_grid(tmp_path, sweeps=True, seeds=(0,), levels=(0.5,)), Recorder()
    for task in cells.tasks(recorder).values():
        task()

    assert list(make_grid(tmp_path, sweeps=True, seeds=(0,)).tasks(recorder)) == ["noise, seed 0"]


def test_jobs_that_need_one_set_wait_for_it(tmp_path):
    cells, recorder = make_grid(tmp_path, seeds=(0,)), Recorder()

    assert runner.Runner(2, tmp_path / "logs").run_all(cells.tasks(recorder)) == []
    assert [command[0] for command in recorder.commands].count("transfer_sets") == 1
    assert recorder.commands[0][0] == "transfer_sets"


def test_sets_are_examined_before_their_runs_seed_by_seed(tmp_path):
    seen = []
    tasks = make_grid(tmp_path, levels=(0.5,)).tasks(Recorder(), lambda *key: seen.append(key))
    for task in tasks.values():
        task()

    assert [name.partition(", ")[2] for name in tasks] == [
        *("seed 0: the set", "seed 0, sparsity 0.5", "seed 1: the set", "seed 1, sparsity 0.5")
    ]
    assert seen == [("noise", 0), ("noise", 1)]


def test_what_a_set_still_needs_is_asked_for_once_right_before_it_is_made(tmp_path):
    cells, recorder, asked = make_grid(tmp_path, levels=(0.5, 0.9)), Recorder(), []

    def prepare(name, seed):
        asked.append((name, seed, len(recorder.commands)))
        return ("--n", str(10 + seed))

    for task in cells.tasks(recorder, prepare=prepare).values():
        task()

    assert asked == [("noise", 0, 0), ("noise", 1, 3)]
    made = [command for command in recorder.commands if command[0] == "transfer_sets"]
    assert [command[2:6] for command in made] == [
        ["--n", "10", "--seed", "0"],
        ["--n", "11", "--seed", "1"],
    ]


def test_after_its_seconds_a_runner_begins_nothing_and_calls_that_no_failure(tmp_path, capsys):
    cells, late = make_grid(tmp_path), runner.Runner(1, tmp_path / "logs", seconds=0)

    assert late.run_all(cells.tasks(late)) == []
    assert late.num_late == 4
    assert not (tmp_path / "logs").exists()
    assert capsys.readouterr().err == ""
    with pytest.raises(runner.OutOfTimeError):
        late.run("a", ["recover", "--help"])


def test_other_options_are_refused_and_more_of_the_same_are_not(tmp_path):
    make_grid(tmp_path).claim()
    make_grid(tmp_path, levels=(0.5, 0.98), seeds=(0, 1, 2)).claim()

    with pytest.raises(IncompatibleError, match="begun with '--x y --steps 5', now '--x z"):
        make_grid(tmp_path, common=("--x", "z")).claim()
    assert json.loads((tmp_path / "noise.json").read_text())["make"] == "transfer_sets draw"


@pytest.mark.parametrize("text", ["", "0,a", "1,1", "-1"])
def test_seeds_are_different_numbers(text):
    with pytest.raises(ConfigError, match="--seeds"):
        grid.parse_seeds(text)


def test_one_failure_does_not_end_the_others(tmp_path, capsys):
    def fail():
        raise DreamforgeError("no luck")

    done = []
    tasks = {"bad": fail, "good": lambda: done.append("good")}

    assert runner.Runner(1, tmp_path).run_all(tasks) == ["bad: no luck"]
    assert done == ["good"]
    assert "[2/2] good: done" in capsys.readouterr().err


def test_a_command_that_fails_is_named_by_its_last_line(tmp_path, monkeypatch):
    script = tmp_path / "tool.py"
    script.write_text("import sys; print('begun'); sys.exit('no such set')")
    monkeypatch.setattr(runner, "HERE", tmp_path)

    with pytest.raises(DreamforgeError, match=r"exit status 1: no such set \(.*a.log\)"):
        runner.Runner(1, tmp_path).run("a", ["tool"])
    assert (tmp_path / "a.log").read_text().splitlines() == ["$ tool", "begun", "no such set"]


PARENT = """
import sys
sys.path[:0] = sys.argv[1:3]
import runner
from pathlib import Path

runner.HERE = Path(sys.argv[3])
both = runner.Runner(1, runner.HERE)
tasks = {name: (lambda name=name: both.run(name, ["child", name])) for name in ("a", "b")}
runner.ending_well(lambda: len(both.run_all(tasks)))
"""
CHILD = """
import signal, sys, time
from pathlib import Path

def save(*_):
    Path(__file__).with_name(sys.argv[1] + ".saved").touch()
    sys.exit(130)

signal.signal(signal.SIGTERM, save)
Path(__file__).with_name(sys.argv[1] + ".begun").touch()
time.sleep(60)
"""


def test_an_interrupt_lets_what_runs_save_and_begins_nothing_more(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", PARENT, str(root / "benchmarks"), str(root), str(tmp_path)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "a.begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.send_signal(signal.SIGTERM)

    assert "the same command goes on" in parent.communicate(timeout=30)[1]
    assert parent.returncode == 130
    assert (tmp_path / "a.saved").exists()
    assert not (tmp_path / "b.begun").exists()
