import dataclasses
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import NUM_CLASSES, blobs
from recover_fixtures import blob_dreams, quick_config

from recover.cli import main
from recover.config import RecoverConfig
from recover.levels import parse_channels, parse_sparsities
from recover.lock import alone_in
from recover.results import find_results
from recover.sweep import (
    FINISHED,
    INTERRUPTED,
    WAITING,
    finished_results,
    plan_levels,
    run_sweep,
    starts_warm,
)
from recover.warm_start import warm_starts
from shared.begun import BegunInterrupt
from shared.checkpoint import to_safetensors
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamforgeError, IncompatibleError, InputFileError
from shared.evaldata import EvalData
from shared.progress import Progress
from shared.teacher import Teacher
from shared.workers import Worker

SPARSITIES = (0.5, 0.8, 0.9)
QUICK = [
    *("--steps", "6", "--batch-size", "16", "--prune-every", "2", "--repair-images", "32"),
    *("--device", "cpu", "--precision", "float32", "--sparsity", "0.5,0.9"),
]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    blob = to_safetensors(tiny_teacher.network, tiny_teacher.spec.to_json())
    return blob_dreams(tmp_path_factory.mktemp("set"), tiny_teacher, teacher=blob)


def configs(**changes: object) -> list[RecoverConfig]:
    return [quick_config(sparsity=sparsity, steps=6, **changes) for sparsity in SPARSITIES]


def sweep(runner: CliRunner, *arguments: object) -> Result:
    return runner.invoke(main, ["sweep", *QUICK, *map(str, arguments)])


@pytest.mark.parametrize(
    ("text", "found"),
    [("0.9,0.5", (0.5, 0.9)), ("0", (0.0,)), (" 0.25 , 0.125", (0.125, 0.25))],
)
def test_sparsities_are_read_in_ascending_order(text, found):
    assert parse_sparsities(text) == found


@pytest.mark.parametrize("text", ["", "0.5,,0.9", "1", "-0.1", "nan", "half", "0.5,0.50"])
def test_other_sparsities_are_refused(text):
    with pytest.raises(ConfigError, match="--sparsity"):
        parse_sparsities(text)


@pytest.mark.parametrize(
    ("text", "found"), [("0.5,0.75", (0.75, 0.5)), ("1", (1.0,)), (" 0.25 ,0.5", (0.5, 0.25))]
)
def test_channels_are_read_the_least_pruned_first(text, found):
    assert parse_channels(text) == found


@pytest.mark.parametrize("text", ["", "0.5,,0.9", "0", "-0.1", "1.5", "nan", "half", "0.5,0.50"])
def test_other_channels_are_refused(text):
    with pytest.raises(ConfigError, match="--channels"):
        parse_channels(text)


def test_levels_of_channels_are_students_that_get_smaller(runner, dreams, tmp_path):
    arguments = ["sweep", *QUICK[:-2], "--dreams", str(dreams.path), "--out", str(tmp_path / "out")]
    arguments += ["--channels", "0.25,0.5"]

    plan = runner.invoke(main, [*arguments, "--dry-run", "--json"])
    result = runner.invoke(main, [*arguments, "--json"])
    again = runner.invoke(main, [*arguments, "--json"])
    page = runner.invoke(main, ["report", str(tmp_path / "out"), "-o", str(tmp_path / "page.html")])

    assert result.exit_code == 0, result.stderr
    assert [level["channels"] for level in json.loads(plan.stdout)["levels"]] == [0.5, 0.25]
    reports = json.loads(result.stdout)
    assert [report["config"]["channels"] for report in reports] == [0.5, 0.25]
    assert [report["sparsity"] for report in reports] == [0.0, 0.0]
    assert reports[1]["num_weights"] < 0.3 * reports[0]["num_weights"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"c0.5", "c0.25"}
    assert json.loads(again.stdout) == reports
    assert page.exit_code == 0, page.stderr
    text = (tmp_path / "page.md").read_text()
    assert "without its least important channels" in text
    assert text.index("50 % of channels") < text.index("25 % of channels")
    assert "weights set to zero" not in text
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_levels_are_of_one_kind(runner, dreams, tmp_path):
    result = sweep(runner, "--dreams", dreams.path, "--channels", "0.5", "--out", tmp_path / "out")

    assert result.exit_code == 2
    assert "--channels 0.5: found --sparsity 0.5,0.9, too" in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_level_is_a_run_of_its_own(tiny_teacher, dreams, tmp_path):
    levels = plan_levels(configs(), tiny_teacher, dreams, None, tmp_path)
    run_sweep(levels, tiny_teacher, dreams, None)

    results = finished_results(levels)
    assert [level.state for level in levels] == [WAITING] * 3
    assert [result.folder.name for result in results] == ["s0.5", "s0.8", "s0.9"]
    for sparsity, result in zip(SPARSITIES, results, strict=True):
        report = result.report
        assert report.num_kept == round((1 - sparsity) * report.num_weights)
        assert {path.name for path in result.folder.iterdir()} == {
            *("report.json", "metrics.jsonl", "student.safetensors")
        }


def test_a_sweep_that_is_finished_does_nothing(tiny_teacher, dreams, tmp_path):
    def refuse(report: Progress) -> None:
        raise AssertionError(report)

    levels = plan_levels(configs(), tiny_teacher, dreams, None, tmp_path)
    run_sweep(levels, tiny_teacher, dreams, None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    again = plan_levels(
        # Where and how often to save decides nothing.
        configs(checkpoint_every=5.0),
        tiny_teacher,
        dreams,
        None,
        tmp_path,
    )

    assert [level.state for level in again] == [FINISHED] * 3
    assert run_sweep(again, tiny_teacher, dreams, None, progress=refuse) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_interrupted_sweep_goes_on_where_it_stopped(tiny_teacher, dreams, tmp_path, monkeypatch):
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    seen: list[tuple[str, float]] = []

    def stop(report: Progress) -> None:
        seen.append((report.stage, report.done))
        if (report.stage, report.done) == ("s0.8 distill", 3):
            raise RuntimeError("killed")

    every_step = configs(checkpoint_every=1e-9)
    levels = plan_levels(every_step, tiny_teacher, dreams, None, tmp_path / "parts")
    with pytest.raises(RuntimeError, match="killed"):
        run_sweep(levels, tiny_teacher, dreams, None, progress=stop)
    levels = plan_levels(every_step, tiny_teacher, dreams, None, tmp_path / "parts")
    states = [level.state for level in levels]
    run_sweep(
        levels,
        tiny_teacher,
        dreams,
        None,
        progress=lambda report: seen.append((report.stage, report.done)),
    )
    whole = plan_levels(configs(), tiny_teacher, dreams, None, tmp_path / "whole")
    run_sweep(whole, tiny_teacher, dreams, None)

    assert states == [FINISHED, INTERRUPTED, WAITING]
    for name in ("s0.5", "s0.8", "s0.9"):
        steps = [done for stage, done in seen if stage == f"{name} distill"]
        assert steps == [1, 2, 3, 4, 5, 6]
        parts, other = (
            tmp_path / home / name / "student.safetensors" for home in ("parts", "whole")
        )
        assert parts.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("is_same", [False, True])
def test_a_sweep_in_the_place_of_another_goes_on_from_its_first_level(
    tiny_teacher, dreams, tmp_path, is_same
):
    def stop(report: Progress) -> None:
        raise KeyboardInterrupt

    asked = [quick_config(sparsity=sparsity, steps=1) for sparsity in (0.5, 0.8)]
    new = list(warm_starts(asked))
    old = new if is_same else [dataclasses.replace(config, steps=0) for config in asked]
    levels = plan_levels(old, tiny_teacher, dreams, None, tmp_path)
    run_sweep(levels, tiny_teacher, dreams, None)
    before = finished_results(levels)

    levels = plan_levels(new, tiny_teacher, dreams, None, tmp_path, overwrite=True)
    with pytest.raises(BegunInterrupt):
        run_sweep(levels, tiny_teacher, dreams, None, overwrite=True, progress=stop)

    shown, remarks = find_results([tmp_path])
    assert shown == before
    assert len(remarks) == 2
    assert starts_warm(asked, Worker(), tmp_path, overwrite=False)
    again = plan_levels(new, tiny_teacher, dreams, None, tmp_path)
    assert [level.state for level in again] == [WAITING] * 2
    assert len(run_sweep(again, tiny_teacher, dreams, None)) == 2
    results = finished_results(again)
    assert [result.report.config["warm_start"] for result in results] == [0.0, 0.5]
    assert find_results([tmp_path])[1] == []


def test_a_level_that_another_sweep_has_finished_meanwhile_is_no_result(
    tiny_teacher, dreams, tmp_path
):
    one, other = (
        [quick_config(sparsity=sparsity, steps=steps) for sparsity in (0.5, 0.8)]
        for steps in (0, 1)
    )
    mine = plan_levels(one, tiny_teacher, dreams, None, tmp_path)
    theirs = plan_levels(other, tiny_teacher, dreams, None, tmp_path)
    run_sweep(mine, tiny_teacher, dreams, None, Worker(index=0, count=2))
    run_sweep(theirs, tiny_teacher, dreams, None, Worker(index=1, count=2))

    with pytest.raises(IncompatibleError, match=r"s0\.8: is finished with --steps 1 \(now 0\)"):
        finished_results(mine)
    (result,) = finished_results(mine, overwrite=True)
    assert result.report.sparsity == 0.5


def test_where_a_level_cannot_begin_none_has(tiny_teacher, dreams, tmp_path):
    old = [quick_config(sparsity=sparsity, steps=0) for sparsity in (0.5, 0.8)]
    run_sweep(plan_levels(old, tiny_teacher, dreams, None, tmp_path), tiny_teacher, dreams, None)
    unfinished = tmp_path / "s0.5"
    (unfinished / "report.json").unlink()
    (unfinished / "student.safetensors").rename(unfinished / "checkpoint.pt")
    before = {path.name: path.read_bytes() for path in unfinished.iterdir()}
    levels = plan_levels(configs()[:2], tiny_teacher, dreams, None, tmp_path, overwrite=True)

    with alone_in(tmp_path / "s0.8"), pytest.raises(DreamforgeError, match="another process"):
        run_sweep(levels, tiny_teacher, dreams, None, overwrite=True)

    assert {path.name: path.read_bytes() for path in unfinished.iterdir()} == before
    (again,) = plan_levels(old[1:], tiny_teacher, dreams, None, tmp_path)
    assert again.state == FINISHED


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_workers_run_every_level_once(tiny_teacher, dreams, tmp_path, count, monkeypatch):
    ran: list[Path] = []
    monkeypatch.setattr(
        "recover.sweep.recover_student", lambda *arguments, **options: ran.append(arguments[4])
    )
    levels = plan_levels(configs(), tiny_teacher, dreams, None, tmp_path)

    for index in range(count):
        run_sweep(levels, tiny_teacher, dreams, None, Worker(index=index, count=count))

    assert sorted(ran) == [level.folder for level in levels]


def test_a_level_of_other_arguments_is_refused_by_name(tiny_teacher, dreams, tmp_path):
    levels = plan_levels(configs(), tiny_teacher, dreams, None, tmp_path)
    run_sweep(levels[1:2], tiny_teacher, dreams, None)

    images, labels = blobs(10)
    ten = EvalData(images=images, labels=labels)
    for others, real, text in (
        (configs(lr=0.01), None, r"s0\.8: is finished with --lr 0\.05 \(now 0\.01\).*--overwrite"),
        (configs(), ten, r"images of --eval-data None \(now 10\)"),
    ):
        with pytest.raises(IncompatibleError, match=text):
            plan_levels(others, tiny_teacher, dreams, real, tmp_path)
    replaced = plan_levels(configs(lr=0.01), tiny_teacher, dreams, None, tmp_path, overwrite=True)
    assert [level.state for level in replaced] == [WAITING] * 3


def test_an_interrupted_level_of_other_arguments_is_refused_before_anything_runs(
    tiny_teacher, dreams, tmp_path, monkeypatch
):
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)

    def stop(report: Progress) -> None:
        if report.stage.endswith("distill"):
            raise RuntimeError("killed")

    levels = plan_levels(configs(checkpoint_every=1e-9), tiny_teacher, dreams, None, tmp_path)
    with pytest.raises(RuntimeError):
        run_sweep(levels[2:], tiny_teacher, dreams, None, progress=stop)

    with pytest.raises(IncompatibleError, match=r"s0\.9: holds an unfinished run with --lr"):
        plan_levels(configs(lr=0.01), tiny_teacher, dreams, None, tmp_path)


def test_a_damaged_level_is_named(tiny_teacher, dreams, tmp_path):
    (tmp_path / "s0.8").mkdir()
    (tmp_path / "s0.8" / "report.json").write_text('{"sparsity": 0.8}')

    with pytest.raises(InputFileError, match=r"s0\.8/report\.json: no report of recover run"):
        plan_levels(configs(), tiny_teacher, dreams, None, tmp_path)


def test_the_command_prints_a_table_or_a_list(runner, dreams, tmp_path):
    arguments = ("--dreams", dreams.path, "--out", tmp_path / "levels")

    shown = sweep(runner, *arguments)
    listed = sweep(runner, *arguments, "--json")

    assert shown.exit_code == 0, shown.output
    assert "s0.9 distill: 6/6 steps" in shown.stderr
    assert "recovered" in shown.stdout
    assert "distill:" not in listed.stderr
    records = json.loads(listed.stdout)
    assert [record["sparsity"] for record in records] == [0.5, 0.9]
    assert [record["out"] for record in records] == [
        str(tmp_path / "levels" / name) for name in ("s0.5", "s0.9")
    ]
    assert {"classes", "costs"} <= records[0].keys()
    assert len(records[0]["classes"]) == NUM_CLASSES


def test_a_sweep_of_other_arguments_exits_with_4(runner, dreams, tmp_path):
    arguments = ("--dreams", dreams.path, "--out", tmp_path / "levels")
    assert sweep(runner, *arguments).exit_code == 0

    refused = sweep(runner, *arguments, "--lr", "0.2")
    replaced = sweep(runner, *arguments, "--lr", "0.2", "--overwrite")

    assert refused.exit_code == 4
    assert re.search(r"s0\.5: is finished with --lr 0\.0\d+ \(now 0\.2\)", refused.stderr)
    assert replaced.exit_code == 0


def test_two_workers_of_the_command_share_the_levels(runner, dreams, tmp_path, monkeypatch):
    arguments = ("--dreams", dreams.path, "--out", tmp_path / "levels", "--json")

    first = sweep(runner, *arguments, "--worker", "0/2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = sweep(runner, *arguments)

    assert [record["sparsity"] for record in json.loads(first.stdout)] == [0.5]
    assert "1 of 2 levels are finished" in first.stderr
    assert [record["sparsity"] for record in json.loads(second.stdout)] == [0.5, 0.9]
    assert "s0.5 distill" not in second.stderr


def test_a_worker_that_overwrites_shows_no_levels_of_the_old_sweep(runner, dreams, tmp_path):
    out = tmp_path / "levels"
    arguments = ("--dreams", dreams.path, "--out", out, "--no-warm-start", "--json")
    assert sweep(runner, *arguments, "--steps", "0").exit_code == 0
    other = (out / "s0.9" / "report.json").read_bytes()

    first = sweep(runner, *arguments, "--worker", "0/2", "--overwrite")
    left = (out / "s0.9" / "report.json").read_bytes()
    second = sweep(runner, *arguments, "--worker", "1/2", "--overwrite")

    assert first.exit_code == second.exit_code == 0, second.output
    assert [record["sparsity"] for record in json.loads(first.stdout)] == [0.5]
    assert "1 of 2 levels are finished" in first.stderr
    assert left == other
    assert [record["config"]["steps"] for record in json.loads(second.stdout)] == [6, 6]


def test_of_a_launchers_processes_one_prints(runner, dreams, tmp_path, monkeypatch):
    arguments = ("--dreams", dreams.path, "--out", tmp_path / "levels", "--no-warm-start", "--json")
    monkeypatch.setenv("WORLD_SIZE", "2")
    printed = []
    for rank in ("0", "1", "1", "0"):  # the first has nothing to add while the second has more
        monkeypatch.setenv("RANK", rank)
        printed.append(sweep(runner, *arguments).stdout)

    assert [bool(text) for text in printed] == [False, True, False, True]
    for text in printed[1::2]:
        assert [record["sparsity"] for record in json.loads(text)] == [0.5, 0.9]


def test_a_dry_run_of_a_sweep_writes_nothing(runner, dreams, tmp_path):
    arguments = ("--dreams", dreams.path, "--out", tmp_path / "levels", "--dry-run")

    plan = json.loads(sweep(runner, *arguments, "--worker", "1/2", "--json").stdout)
    shown = sweep(runner, *arguments)

    assert [level["state"] for level in plan["levels"]] == ["to do", "to do"]
    assert [level["worker"] for level in plan["levels"]] == [0, 1]
    assert plan["seconds"] == plan["seconds_per_level"] > 0
    assert "levels to run here: 2" in shown.stdout
    assert not (tmp_path / "levels").exists()


def test_a_file_in_the_way_is_refused(runner, dreams, tmp_path):
    (tmp_path / "levels").write_text("")

    result = sweep(runner, "--dreams", dreams.path, "--out", tmp_path / "levels")

    assert result.exit_code == 2
    assert "found a file, expected a folder" in result.stderr
