import dataclasses
import importlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from killing import Killed
from recover_fixtures import blob_dreams, quick_config

from recover.budget import (
    LEAST_STEPS,
    MOST_STEPS,
    BudgetedSteps,
    choose_steps,
    parse_budget,
    rounded_down,
    steps_within,
)
from recover.cli import main
from recover.cli_budget import remark
from recover.lock import alone_in
from recover.pace import Pace, measure_pace
from recover.preparation import Setup, prepare
from shared.checkpoint import to_safetensors
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError, InputFileError
from shared.files import write_json_once
from shared.progress import Progress
from shared.teacher import Teacher, fingerprint

ONE_SHOT = quick_config(schedule="one-shot")
QUICK = [
    *("--batch-size", "16", "--prune-every", "20", "--repair-images", "32", "--device", "cpu"),
    *("--precision", "float32"),
]


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    blob = to_safetensors(tiny_teacher.network, tiny_teacher.spec.to_json())
    return blob_dreams(tmp_path_factory.mktemp("set"), tiny_teacher, teacher=blob)


@pytest.fixture
def setup(tiny_teacher: Teacher, dreams: DreamSet) -> Setup:
    return prepare(quick_config(steps=1500), tiny_teacher, dreams)


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> list[Pace]:
    """Paces that are measured one after another, the last one for ever; no time goes by."""
    for module in ("recover.cli_budget", "recover.budget"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: 0.0))
    paces = [Pace(step=1.0, pruning=0.0, aside=10.0)]
    monkeypatch.setattr(
        "recover.budget.measure_pace",
        lambda *_, **__: paces.pop(0) if len(paces) > 1 else paces[0],
    )
    return paces


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("90s", 90), ("2h", 7200), ("600", 600), ("1.5 h", 5400), (" 1D ", 86400)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "m", "1y", "1h30", "inf", "nan", "٣m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget: found"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 0), (7, 7), (99, 99), (101, 100), (1999, 1900), (12345, 12000)]
)
def test_numbers_are_rounded_to_two_digits(count: int, expected: int) -> None:
    assert rounded_down(count) == expected


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [
        (10 + 4 + 2 * LEAST_STEPS, LEAST_STEPS),
        (10 + 4 + 2 * LEAST_STEPS - 0.1, 0),
        (10 + 4 + 2 * 1234, 1200),
        (1.0, 0),
        (1e9, MOST_STEPS),
    ],
)
def test_as_many_steps_as_fit(seconds: float, steps: int) -> None:
    # In one shot the masks are chosen once: 10 s aside, 4 s for the masks, 2 s a step.
    assert steps_within(seconds, Pace(step=2.0, pruning=4.0, aside=10.0), ONE_SHOT) == steps


def test_updates_of_the_masks_count() -> None:
    config = quick_config(prune_end=0.5, prune_every=10)
    pace = Pace(step=1.0, pruning=3.0, aside=7.0)

    # Up to step 50 of 100 the masks change before steps 0, 10, ..., 50.
    assert pace.seconds(config, 100) == 7 + 100 + 6 * 3
    assert steps_within(7 + 100 + 6 * 3, pace, config) == 100
    assert pace.seconds(config, 0) == 7 + 3


def test_a_pace_is_measured_without_changing_anything(setup: Setup) -> None:
    before = fingerprint(setup.teacher.network), setup.feed.batch(0)[0].sum()

    pace = measure_pace(setup, num_real_images=0, patience=60)
    with_real = measure_pace(setup, num_real_images=10**9, patience=0)

    assert pace.step > 0
    assert pace.pruning > 0
    assert pace.aside > 2
    assert with_real.aside > 1000
    assert (fingerprint(setup.teacher.network), setup.feed.batch(0)[0].sum()) == before


def test_what_is_chosen_once_stays(setup: Setup, tmp_path: Path, pace: list[Pace]) -> None:
    pace[:] = [Pace(step=1.0, pruning=0.0, aside=10.0), Pace(step=9.0, pruning=0.0, aside=10.0)]

    first = choose_steps(setup, tmp_path / "out", 600, eval_data=None, spent=30)
    again = choose_steps(setup, tmp_path / "out", 600, eval_data=None, spent=500)

    assert first.steps == 530  # 600 s less 5 %, less the 30 s that are gone, less 10 s aside
    assert first.seconds == 540
    assert again == dataclasses.replace(first, is_recorded=True)


def test_a_look_writes_nothing(setup: Setup, tmp_path: Path, pace: list[Pace]) -> None:
    choose_steps(setup, tmp_path / "out", 600, eval_data=None, write=False)

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_levels", [None, 1, 4])
def test_the_levels_of_a_sweep_share_the_time(
    setup: Setup, tmp_path: Path, pace: list[Pace], num_levels: int | None
) -> None:
    choice = choose_steps(setup, tmp_path, 4000, eval_data=None, num_levels=num_levels)

    assert choice.steps == rounded_down(int(3800 / (num_levels or 1) - 10))


def test_a_record_of_something_else_is_refused(
    tiny_teacher: Teacher, dreams: DreamSet, setup: Setup, tmp_path: Path, pace: list[Pace]
) -> None:
    choose_steps(setup, tmp_path, 600, eval_data=None)
    other = prepare(quick_config(steps=1500, lr=0.01), tiny_teacher, dreams)

    with pytest.raises(IncompatibleError, match=r"begun with --budget 600 s \(now 700 s\)"):
        choose_steps(setup, tmp_path, 700, eval_data=None)
    with pytest.raises(IncompatibleError, match=r"--lr 0\.05 \(now 0\.01\)"):
        choose_steps(other, tmp_path, 600, eval_data=None)
    fresh = choose_steps(other, tmp_path, 600, eval_data=None, fresh=True, write=False)
    assert not fresh.is_recorded


def test_a_run_that_began_without_a_budget_is_not_timed(
    setup: Setup, tmp_path: Path, pace: list[Pace]
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")

    with pytest.raises(IncompatibleError, match="holds an unfinished run without --budget"):
        choose_steps(setup, tmp_path, 600, eval_data=None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"arguments": {}, "steps": -1}', "nonsense"])
def test_a_damaged_record_is_named(setup: Setup, tmp_path: Path, text: str) -> None:
    (tmp_path / "budget.json").write_text(text)

    with pytest.raises(InputFileError, match=r"budget\.json: no record of --budget"):
        choose_steps(setup, tmp_path, 600, eval_data=None)


def test_of_two_that_write_at_once_the_first_chooses(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> Pace:
        """While this one measures, another worker chooses 40 times as many steps."""
        with monkeypatch.context() as patch:
            quick = Pace(step=0.1, pruning=0.0, aside=0.0)
            patch.setattr("recover.budget.measure_pace", lambda *_, **__: quick)
            choose_steps(setup, tmp_path, 600, eval_data=None, num_levels=2)
        return Pace(step=4.0, pruning=0.0, aside=0.0)

    monkeypatch.setattr("recover.budget.measure_pace", measure)
    choice = choose_steps(setup, tmp_path, 600, eval_data=None, num_levels=2)

    assert choice.steps == json.loads((tmp_path / "budget.json").read_text())["steps"] == 2800
    assert [path.name for path in tmp_path.iterdir()] == ["budget.json"]


def test_a_file_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    assert write_json_once(path, 1)
    assert not write_json_once(path, 2)
    assert path.read_text() == "1\n"
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_what_is_said_of_a_choice() -> None:
    choice = BudgetedSteps(
        budget=600,
        steps=900,
        usual_steps=1500,
        seconds=540,
        seconds_usual=900,
        seconds_least=120,
    )
    more, most = (dataclasses.replace(choice, steps=steps) for steps in (3000, MOST_STEPS))
    none = dataclasses.replace(choice, steps=0)
    found = dataclasses.replace(choice, is_recorded=True)

    assert remark(choice) == (
        "--budget 10 min 0 s: 900 steps, about 9 min 0 s with judging; the usual 1,500 take "
        "15 min 0 s, and usually recover more"
    )
    assert "recover more" not in remark(more)
    assert "no more are chosen" in remark(most)
    assert "prunes and repairs only" in remark(none)
    assert "900 steps for every level that an earlier call chose" in remark(found, is_sweep=True)


def call(runner: CliRunner, dreams: DreamSet, out: Path, *arguments: str) -> Result:
    paths = ("--dreams", str(dreams.path), "--out", str(out))
    return runner.invoke(main, ["run", *QUICK, *paths, *arguments])


def test_a_run_that_was_killed_goes_on_with_the_steps_it_began_with(
    runner: CliRunner,
    dreams: DreamSet,
    tmp_path: Path,
    pace: list[Pace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = ("--budget", "100")
    pace[:] = [
        Pace(step=1.0, pruning=0.0, aside=32.0),
        # The machine is busier when the run goes on, and would choose nothing at all.
        Pace(step=100.0, pruning=0.0, aside=32.0),
    ]
    seen: list[float] = []

    def stop(report: Progress) -> None:
        if report.stage == "distill":
            seen.append(report.total)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
        patch.setattr("shared.cli_progress._line_printer", lambda _: stop)
        killed = call(runner, dreams, tmp_path / "out", *budget)
    went_on = call(runner, dreams, tmp_path / "out", *budget)
    whole = call(runner, dreams, tmp_path / "whole", "--steps", str(int(seen[0])))

    assert killed.exit_code == 130, killed.output
    assert went_on.exit_code == whole.exit_code == 0, went_on.output
    assert seen[0] == 63  # 100 s less 5 %, less 32 s aside
    assert "that an earlier call chose" in went_on.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["config"]["steps"] == seen[0]
    ours, other = (tmp_path / name / "student.safetensors" for name in ("out", "whole"))
    assert ours.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("more", [(), ("--channels", "0.5"), ("--importance", "fisher")], ids=str)
def test_too_little_time_repairs_only(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace], more: tuple[str, ...]
) -> None:
    result = call(runner, dreams, tmp_path / "out", "--budget", "30s", "--json", *more)

    assert result.exit_code == 0, result.output
    assert "too short to distil" in result.stderr
    assert json.loads(result.stdout)["config"]["steps"] == 0


def test_what_takes_longer_than_the_budget_with_no_step_is_said_and_recorded(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace]
) -> None:
    pace[:] = [Pace(step=1.0, pruning=0.0, aside=31.0)]
    words = "repair and judging alone take about 1 min 2 s"

    fits = call(runner, dreams, tmp_path / "run", "--budget", "40", "--json")
    levels = ("--sparsity", "0.5,0.9", "--budget", "40", "--json")
    exceeded = swept(runner, dreams, tmp_path / "levels", *levels)

    assert not any("--budget" in text for text in json.loads(fits.stdout)["warnings"])
    assert "longer than the budget" not in fits.stderr
    for record in json.loads(exceeded.stdout):  # of two levels of 31 s
        assert sum(words in text for text in record["warnings"]) == 1
    assert "about 1 min 2 s, longer than the budget; the usual" in exceeded.stderr.splitlines()[0]
    assert exceeded.stderr.count(f"warning: --budget 0 min 40 s: found that loading, {words}") == 1


def test_the_time_that_the_timing_takes_is_gone(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def measure(*_: object, **__: object) -> Pace:
        now[0] += 100
        return Pace(step=1.0, pruning=0.0, aside=10.0)

    monkeypatch.setattr("recover.budget.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("recover.budget.measure_pace", measure)
    choice = choose_steps(setup, tmp_path, 600, eval_data=None, spent=30)

    assert choice.steps == 430  # 600 s less 5 %, less the 30 s and the 100 s, less 10 s aside
    assert choice.seconds_without == 140
    assert not choice.is_exceeded


def test_a_record_of_an_earlier_version_is_gone_on_with(
    setup: Setup, tmp_path: Path, pace: list[Pace]
) -> None:
    chosen = choose_steps(setup, tmp_path, 600, eval_data=None)
    path = tmp_path / "budget.json"
    record = json.loads(path.read_text())
    del record["seconds_without"]
    path.write_text(json.dumps(record))

    assert choose_steps(setup, tmp_path, 600, eval_data=None).steps == chosen.steps


def test_a_finished_run_without_a_budget_is_not_given_one(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace]
) -> None:
    out = tmp_path / "out"
    assert call(runner, dreams, out, "--steps", "2").exit_code == 0

    refused = call(runner, dreams, out, "--budget", "30s")

    assert refused.exit_code == 4
    assert "holds a finished run without --budget" in refused.stderr
    assert not (out / "budget.json").exists()


def test_overwriting_chooses_anew(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace]
) -> None:
    out = tmp_path / "out"
    assert call(runner, dreams, out, "--budget", "30s").exit_code == 0

    again = call(runner, dreams, out, "--budget", "30s")
    refused = call(runner, dreams, out, "--budget", "20s")
    shown = call(runner, dreams, out, "--budget", "20s", "--overwrite", "--dry-run")
    kept = json.loads((out / "budget.json").read_text())["budget"]
    replaced = call(runner, dreams, out, "--budget", "20s", "--overwrite")

    assert again.exit_code == 0, again.output
    assert "already finished" in again.stderr
    assert refused.exit_code == 4
    assert "holds a finished run with --budget 30 s (now 20 s)" in refused.stderr
    assert shown.exit_code == replaced.exit_code == 0, replaced.output
    assert kept == 30
    assert json.loads((out / "budget.json").read_text())["budget"] == 20
    assert {path.name for path in out.iterdir()} == {
        *("budget.json", "report.json", "student.safetensors")
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left")])
def test_what_stops_the_timing_leaves_the_finished_run(
    runner: CliRunner,
    dreams: DreamSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def stop(*_: object, **__: object) -> Pace:
        raise error

    monkeypatch.setattr("recover.budget.measure_pace", stop)
    out = tmp_path / "out"
    assert call(runner, dreams, out, "--steps", "0").exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    stopped = call(runner, dreams, out, "--budget", "30s", "--overwrite")
    other = call(runner, dreams, out, "--steps", "2", "--sparsity", "0.5")

    assert stopped.exit_code in (1, 130)
    assert other.exit_code == 4
    assert "holds a finished run" in other.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_in_the_place_of_another_goes_on_with_the_steps_it_began_with(
    runner: CliRunner,
    dreams: DreamSet,
    tmp_path: Path,
    pace: list[Pace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, budget = tmp_path / "out", ("--budget", "100", "--importance", "fisher")
    assert call(runner, dreams, out, "--steps", "0").exit_code == 0
    pace[:] = [Pace(step=1.0, pruning=0.0, aside=99.0), Pace(step=1.0, pruning=0.0, aside=1.0)]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recover.pipeline._judge", stop)
        stopped = call(runner, dreams, out, *budget, "--overwrite")
    other = call(runner, dreams, out, "--steps", "3")
    unbudgeted = call(runner, dreams, out, "--budget", "50")
    went_on = call(runner, dreams, out, *budget, "--json")

    assert stopped.exit_code == 130
    assert other.exit_code == unbudgeted.exit_code == 4
    assert went_on.exit_code == 0, went_on.output
    # 100 s less 5 % are less than 99 s aside: nothing is taught, so nothing has gradients to go by.
    assert json.loads(went_on.stdout)["config"]["steps"] == 0
    assert json.loads((out / "budget.json").read_text())["budget"] == 100


def test_steps_and_budget_exclude_each_other(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path
) -> None:
    for command in ("run", "sweep"):
        result = runner.invoke(
            main, [command, "--dreams", str(dreams.path), "--budget", "1m", "--steps", "5"]
        )

        assert result.exit_code == 2
        assert "error: --budget 1m: found --steps 5, too; expected one" in result.stderr


def test_a_sweep_gives_every_level_the_same_steps(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace]
) -> None:
    paths = ("--dreams", str(dreams.path), "--out", str(tmp_path / "levels"))
    sweep = ["sweep", *QUICK, *paths, "--sparsity", "0.5,0.9", "--budget", "70s", "--json"]

    first = runner.invoke(main, [*sweep, "--worker", "0/2"])
    pace[:] = [Pace(step=99.0, pruning=0.0, aside=0.0)]
    second = runner.invoke(main, [*sweep, "--worker", "1/2"])
    again = runner.invoke(main, sweep)
    refused = runner.invoke(main, [*sweep, "--worker", "1/2", "--overwrite"])

    assert first.exit_code == second.exit_code == again.exit_code == 0, second.output
    steps = [report["config"]["steps"] for report in json.loads(again.stdout)]
    # Each of two workers has one level: 70 s less 5 %, less 10 s aside.
    assert steps == [56, 56]
    assert refused.exit_code == 2
    assert "--overwrite and 2 workers" in refused.stderr


def test_a_sweep_that_replaces_nothing_leaves_the_record(
    runner: CliRunner,
    dreams: DreamSet,
    tmp_path: Path,
    pace: list[Pace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "levels"
    sweep = ["sweep", *QUICK, "--dreams", str(dreams.path), "--out", str(out), "--sparsity", "0.9"]
    sweep += ["--budget"]
    first = runner.invoke(main, [*sweep, "30s"])
    before = (out / "budget.json").read_bytes()

    with alone_in(out / "s0.9"):
        busy = runner.invoke(main, [*sweep, "20s", "--overwrite"])
    with monkeypatch.context() as patch:
        patch.setattr("shared.files.write_json", full)
        unwritable = runner.invoke(main, [*sweep, "20s", "--overwrite"])

    assert first.exit_code == 0, first.output
    assert busy.exit_code == unwritable.exit_code == 1
    assert "another process is at work" in busy.stderr
    assert "No space left" in unwritable.stderr
    assert (out / "budget.json").read_bytes() == before
    assert not list(out.glob("*/.recover.next"))
    assert runner.invoke(main, [*sweep, "20s", "--overwrite"]).exit_code == 0
    assert json.loads((out / "budget.json").read_text())["budget"] == 20


def swept(runner: CliRunner, dreams: DreamSet, out: Path, *arguments: str) -> Result:
    paths = ("--dreams", str(dreams.path), "--out", str(out))
    return runner.invoke(main, ["sweep", *QUICK, *paths, *arguments])


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.json")}


def test_a_sweep_that_is_refused_leaves_no_record(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace]
) -> None:
    out, level = tmp_path / "levels", ("--sparsity", "0.9")
    assert swept(runner, dreams, out, *level, "--steps", "0").exit_code == 0
    before = files(out)

    begun_without = swept(runner, dreams, out, *level, "--budget", "100s")
    new = ("--channels", "0.5", "--warm-start", "--budget", "1s")  # too little to cut on the way
    impossible = swept(runner, dreams, tmp_path / "new", *new)

    assert begun_without.exit_code == 4
    assert "s0.9: is finished with" in begun_without.stderr
    assert files(out) == before
    assert impossible.exit_code == 2
    assert not (tmp_path / "new").exists()


def test_what_replaces_a_sweep_leaves_no_record_of_its_budget(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace]
) -> None:
    out, level = tmp_path / "levels", ("--sparsity", "0.9")
    assert swept(runner, dreams, out, *level, "--budget", "30s").exit_code == 0

    with alone_in(out / "s0.9"):
        busy = swept(runner, dreams, out, *level, "--steps", "1", "--overwrite")
    kept = (out / "budget.json").exists()
    replaced = swept(runner, dreams, out, *level, "--steps", "1", "--overwrite")

    assert busy.exit_code == 1
    assert kept
    assert replaced.exit_code == 0, replaced.output
    assert not (out / "budget.json").exists()


def test_a_sweep_that_is_killed_before_its_record_is_replaced_by_the_same_command(
    runner: CliRunner,
    dreams: DreamSet,
    tmp_path: Path,
    pace: list[Pace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, again = tmp_path / "levels", ("--sparsity", "0.9", "--budget", "20s", "--overwrite")
    assert swept(runner, dreams, out, "--sparsity", "0.9", "--budget", "30s").exit_code == 0

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("recover.cli_budget.Budget.settle", kill)
        patch.setattr("recover.folder.RunFolder.withdraw", lambda _: None)
        with pytest.raises(Killed):
            swept(runner, dreams, out, *again)
    without = swept(runner, dreams, out, *again[:-1])
    replaced = swept(runner, dreams, out, *again)

    assert without.exit_code == 4
    assert "start again with --overwrite" in without.stderr
    assert replaced.exit_code == 0, replaced.output
    assert json.loads((out / "budget.json").read_text())["budget"] == 20
    assert not list(out.glob("*/.recover.next"))


@pytest.mark.parametrize("moment", ["recover.budget.measure_pace", "recover.sweep.plan_levels"])
def test_workers_that_choose_at_once_run_with_the_steps_of_the_first(
    runner: CliRunner, dreams: DreamSet, tmp_path: Path, pace: list[Pace], moment: str
) -> None:
    """While the second one measures, or after it has planned, the first begins and ends."""
    out, sweep = tmp_path / "levels", ("--sparsity", "0.5,0.9", "--budget", "70s", "--worker")
    module, _, name = moment.rpartition(".")
    work = getattr(importlib.import_module(module), name)

    def late(*arguments: object, **options: object) -> object:
        done = work(*arguments, **options)
        patch.undo()
        pace.insert(0, Pace(step=99.0, pruning=0.0, aside=0.0))
        assert swept(runner, dreams, out, *sweep, "0/2").exit_code == 0
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moment, late)
        second = swept(runner, dreams, out, *sweep, "1/2", "--json")

    assert second.exit_code == 0, second.output
    assert [report["config"]["steps"] for report in json.loads(second.stdout)] == [0, 0]
    assert "that an earlier call chose" in second.stderr


def full(path: Path, _: object) -> None:
    raise OSError(28, "No space left on device", str(path))
