import copy
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import IMAGE_SHAPE, QUADRANTS
from dreamset_fixtures import tiny_spec, write_dream_set
from recover_fixtures import blob_dreams, blob_photos

from recover.cli import main
from shared.checkpoint import to_safetensors
from shared.teacher import Teacher

QUICK = [
    *("--steps", "6", "--batch-size", "16", "--prune-every", "2", "--repair-images", "32"),
    *("--device", "cpu", "--precision", "float32"),
]


@pytest.fixture(scope="module")
def index(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dream set with its teacher inside."""
    blob = to_safetensors(tiny_teacher.network, tiny_teacher.spec.to_json())
    return blob_dreams(tmp_path_factory.mktemp("set"), tiny_teacher, teacher=blob).path


@pytest.fixture(scope="module")
def eval_folder(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blob_photos(tmp_path_factory.mktemp("real"), tiny_teacher, 20)


def run(runner: CliRunner, *arguments: object) -> Result:
    return runner.invoke(main, ["run", *QUICK, *map(str, arguments)])


def error_of(result: Result) -> str:
    lines = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


def test_dreams_and_sparsity_are_all_that_is_needed(
    runner: CliRunner, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = run(runner, "--dreams", index, "--sparsity", 0.8)

    assert result.exit_code == 0, result.output
    written = {path.name for path in (tmp_path / "dreams-s0.8").iterdir()}
    assert written == {"student.safetensors", "report.json", "metrics.jsonl"}
    for word in ("teacher", "pruned", "repaired", "recovered", "report: dreams-s0.8/report.json"):
        assert word in result.stdout
    assert "on 12 held-out dreams" in " ".join(result.stdout.split())
    assert result.stderr.count("recover: warning: only 12 dreams are held out") == 1


def test_json_is_the_only_thing_on_stdout(
    runner: CliRunner, index: Path, eval_folder: Path, tmp_path: Path
) -> None:
    result = run(
        runner, "--dreams", index, "--out", tmp_path / "o", "--eval-data", eval_folder, "--json"
    )

    record = json.loads(result.stdout)
    assert record["sparsity"] == 0.8
    assert 0 <= record["recovered"]["accuracy"] <= 1
    assert record["teacher"]["accuracy"] > 0.9
    assert record["out"] == str(tmp_path / "o")
    assert "distill: 6/6 steps" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--dry-run"),
        ("sweep", "--sparsity", "0.5,0.8", "--dry-run"),
        ("prune", "--sparsity", "0.5"),
        ("prune", "--sparsity", "0.5", "--dry-run"),
    ],
)
def test_json_has_the_warnings_of_stderr(
    runner: CliRunner, index: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    name, *options = command
    where = ["--dreams", str(index), "--out", str(tmp_path / "o"), "--device", "cpu", "--json"]
    result = runner.invoke(main, [name, *where, *options])

    assert result.exit_code == 0, result.stderr
    said = re.findall(r"recover: warning: (.*)", result.stderr)
    assert any("only 12 dreams are held out" in text for text in said)
    assert json.loads(result.stdout)["warnings"] == said


def test_explicit_flags_beat_the_preset(runner: CliRunner, index: Path, tmp_path: Path) -> None:
    result = run(
        runner,
        *("--dreams", index, "--out", tmp_path / "o", "--json"),
        *("--preset", "tripurwar2025", "--sparsity", 0.3),
    )

    config = json.loads(result.stdout)["config"]
    assert (config["sparsity"], config["steps"], config["temperature"]) == (0.3, 6, 3.0)


def test_a_dry_run_writes_nothing(runner: CliRunner, index: Path, tmp_path: Path) -> None:
    arguments = ("--dreams", index, "--out", tmp_path / "o", "--dry-run")

    plan = json.loads(run(runner, *arguments, "--json").stdout)
    shown = run(runner, *arguments)

    assert plan["num_kept"] == round(0.2 * plan["num_weights"])
    assert plan["seconds"] > 0
    assert "resnet8, 4 classes, 3x8x8" in shown.stdout
    assert not (tmp_path / "o").exists()


def test_a_finished_run_is_shown_again_and_kept_unless_overwritten(
    runner: CliRunner, index: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    arguments = ("--dreams", index, "--out", out)
    first = run(runner, *arguments, "--json")
    assert first.exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}

    again = run(runner, *arguments, "--json")
    other = run(runner, *arguments, "--lr", "0.123")

    assert again.exit_code == 0, again.stderr
    assert f"recover: {out}: already finished" in again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert other.exit_code == 4
    assert re.search(r"holds a finished run with --lr .*\(now 0\.123\); .*--ov", error_of(other))
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert run(runner, *arguments, "--overwrite").exit_code == 0


def test_without_a_teacher_anywhere_the_command_asks_for_it(
    runner: CliRunner, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    dreams = blob_dreams(tmp_path, tiny_teacher)

    result = run(runner, "--dreams", dreams.path, "--out", tmp_path / "o")

    assert result.exit_code == 2
    assert "pass it with --teacher" in error_of(result)


def test_a_foreign_teacher_is_refused(
    runner: CliRunner, teacher_file: Path, tmp_path: Path
) -> None:
    index = write_dream_set(tmp_path, spec=tiny_spec(image_shape=IMAGE_SHAPE))
    arguments = ("--dreams", index, "--out", tmp_path / "o", "--teacher", teacher_file)

    refused = run(runner, *arguments)
    allowed = run(runner, *arguments, "--allow-teacher-mismatch")

    assert refused.exit_code == 4
    assert "fingerprint abababababab" in error_of(refused)
    assert allowed.exit_code == 0
    assert "recover: warning: the dreams were made from a teacher" in allowed.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (["--dreams", "missing.h5"], 3, "missing.h5"),
        (["--dreams", "SET", "--sparsity", "1"], 2, "--sparsity"),
        (["--dreams", "SET", "--image-size", "big"], 2, "--image-size"),
        (["--dreams", "SET", "--teacher", "missing.pt"], 3, "missing.pt"),
        (["--dreams", "SET", "--eval-data", "missing"], 3, "missing"),
        (["--dreams", "SET", "--device", "tpu"], 2, "--device tpu"),
        ([], 2, "--dreams"),
    ],
)
def test_wrong_arguments_are_one_line_and_the_documented_exit_code(
    runner: CliRunner,
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    exit_code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(index) if word == "SET" else word for word in arguments]

    result = runner.invoke(main, ["run", "--steps", "1", *words])

    assert result.exit_code == exit_code, result.output
    assert text in result.stderr.splitlines()[-1]
    assert not result.stdout
    assert not list(tmp_path.iterdir())


def test_a_saved_student_is_judged_as_in_its_report(
    runner: CliRunner, index: Path, eval_folder: Path, teacher_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    data = ("--eval-data", str(eval_folder))
    report = json.loads(run(runner, "--dreams", index, "--out", out, *data, "--json").stdout)

    judged = runner.invoke(
        main,
        [
            *("eval", str(out), *data, "--dreams", str(index), "--json"),
            *("--teacher", str(teacher_file), "--device", "cpu"),
        ],
    )

    record = json.loads(judged.stdout)
    for name in ("accuracy", "agreement", "agreement_on_dreams", "sparsity", "num_nonzero"):
        assert record[name] == pytest.approx(report["recovered"][name])
    assert record["num_dreams"] == report["provenance"]["dreams"]["num_held_out"]


def evaluated(runner: CliRunner, student: Path, *arguments: object) -> dict[str, Any]:
    words = ["eval", str(student), *map(str, arguments), "--device", "cpu", "--json"]
    result = runner.invoke(main, words)
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def test_without_its_teacher_a_student_is_judged_by_the_stored_answers(
    runner: CliRunner, index: Path, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    assert run(runner, "--dreams", index, "--out", tmp_path / "o").exit_code == 0
    alone = blob_dreams(tmp_path, tiny_teacher).path

    record = evaluated(runner, tmp_path / "o", "--dreams", alone)
    table = runner.invoke(main, ["eval", str(tmp_path / "o"), "--dreams", str(alone)])

    assert record["accuracy"] is record["score"] is None
    assert record["agreement"] == record["agreement_on_dreams"]
    assert record["warnings"] == []
    assert "sparsity" in table.stdout
    assert f"agreement with the teacher on {record['num_dreams']} dreams" in table.stdout
    assert "real images" not in table.stdout


def test_a_student_is_judged_beside_the_teacher_in_the_set(
    runner: CliRunner, index: Path, eval_folder: Path, teacher_file: Path, tmp_path: Path
) -> None:
    assert run(runner, "--dreams", index, "--out", tmp_path / "o").exit_code == 0
    data = ("--dreams", index, "--eval-data", eval_folder)

    found = evaluated(runner, tmp_path / "o", *data)

    assert found == evaluated(runner, tmp_path / "o", *data, "--teacher", teacher_file)
    assert found["score"] is not None
    assert found["num_real"] == 20


def test_a_teacher_that_is_not_what_it_was_is_not_asked(
    runner: CliRunner, index: Path, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    assert run(runner, "--dreams", index, "--out", tmp_path / "o").exit_code == 0
    moved = dataclasses.replace(tiny_teacher.spec, path=str(tmp_path / "teacher.safetensors"))
    dreams = blob_dreams(tmp_path, Teacher(network=tiny_teacher.network, spec=moved)).path
    other = copy.deepcopy(tiny_teacher.network)
    next(other.parameters()).data += 1

    warnings = []
    for content in (to_safetensors(other, tiny_teacher.spec.to_json()), b"rubbish"):
        (tmp_path / "teacher.safetensors").write_bytes(content)
        record = evaluated(runner, tmp_path / "o", "--dreams", dreams)
        assert record["score"] is None
        assert record["agreement_on_dreams"] is not None
        warnings += record["warnings"]

    assert ["is not asked" in text for text in warnings] == [True, True]
    assert "other weights by now" in warnings[0]


def test_class_names_say_which_folder_is_which(
    runner: CliRunner, index: Path, eval_folder: Path, tmp_path: Path
) -> None:
    assert run(runner, "--dreams", index, "--out", tmp_path / "o").exit_code == 0
    folder, names = tmp_path / "real", tmp_path / "names.txt"
    for old, new in zip(QUADRANTS, "zyxw", strict=True):
        if (eval_folder / old).exists():
            shutil.copytree(eval_folder / old, folder / new)
    names.write_text("\n".join("zyxw"))

    refused = runner.invoke(main, ["eval", str(tmp_path / "o"), "--eval-data", str(folder)])
    named = ("--eval-data", folder, "--class-names", names)

    assert refused.exit_code == 4
    assert "called 'x', expected the teacher's class names (top left," in error_of(refused)
    found = evaluated(runner, tmp_path / "o", *named)["accuracy"]
    assert found == evaluated(runner, tmp_path / "o", "--eval-data", eval_folder)["accuracy"]


def test_a_student_needs_something_to_be_judged_by(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(main, ["eval", str(tmp_path)])

    assert result.exit_code == 2
    assert "nothing to judge by" in result.stderr


@pytest.mark.parametrize("option", ["--image-size", "--mean", "--arch"])
def test_a_teachers_options_without_a_teacher_are_refused(
    runner: CliRunner, tmp_path: Path, eval_folder: Path, option: str
) -> None:
    value = {"--image-size": "16", "--mean": "0.5", "--arch": "resnet20"}[option]
    arguments = ["eval", str(tmp_path), "--eval-data", str(eval_folder), option, value]

    result = runner.invoke(main, arguments)

    assert result.exit_code == 2
    assert f"error: {option}: found neither --teacher nor --dreams" in error_of(result)


def test_an_empty_source_of_real_images_is_not_this_folder(
    runner: CliRunner, index: Path, eval_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(eval_folder)

    result = run(runner, "--dreams", index, "--out", tmp_path / "o", "--eval-data", "")

    assert result.exit_code == 2
    assert "--eval-data: found nothing" in error_of(result)


def test_channels_where_all_layers_are_kept_are_refused(
    runner: CliRunner, index: Path, tmp_path: Path
) -> None:
    arguments = ("--dreams", index, "--out", tmp_path / "o", "--channels", 0.5, "--keep", "*")

    result = run(runner, *arguments)

    assert result.exit_code == 2
    assert "--keep" in error_of(result)


def test_a_teacher_is_no_student(runner: CliRunner, teacher_file: Path, index: Path) -> None:
    result = runner.invoke(main, ["eval", str(teacher_file), "--dreams", str(index)])

    assert result.exit_code == 4
    assert "no student of recover" in error_of(result)


@pytest.mark.parametrize("command", ["run", "eval"])
def test_every_option_has_help(command: str) -> None:
    for parameter in main.commands[command].params:
        assert getattr(parameter, "help", None) or parameter.param_type_name == "argument"


def test_help_imports_no_torch() -> None:
    code = "import sys, recover.cli; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
