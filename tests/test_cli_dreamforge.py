"""``dreamforge synth`` as its users call it; what takes a finished set has its own tests."""

import json
import os
import pickle
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from dreamforge.cli import main
from shared.architectures import build_network
from shared.checkpoint import checkpoint_from_bytes
from shared.dreamset import DreamSet
from shared.files import sha256_of
from shared.teacher import Teacher, fingerprint

ROOT = Path(__file__).parent.parent
QUICK = ["--batch-size", "4", "--shard-size", "4", "--steps", "3", "--precision", "float32"]
QUICK += ["--device", "cpu"]


@pytest.fixture
def synth(runner: CliRunner, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Eight dreams in two shards, in an empty folder; arguments are added to that."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, quick: list[str] = QUICK, **kwargs) -> Result:
        words = ["synth", "--teacher", str(teacher_file), "--n", "8", *quick, *map(str, arguments)]
        return runner.invoke(main, words, **kwargs)

    return run


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.h5"))}


def error_of(result: Result) -> str:
    """The one line that says what is wrong; nothing else may look like a result."""
    assert not result.stdout
    lines = [line for line in result.stderr.splitlines() if "rror: " in line]
    assert len(lines) == 1, result.stderr
    assert lines[0] == result.stderr.splitlines()[-1]
    return lines[0]


def test_the_result_is_one_line_and_progress_goes_to_stderr(synth, tmp_path):
    result = synth()

    assert result.exit_code == 0, result.stderr
    assert re.fullmatch(
        r"dreams\.h5: 8 dreams in 2 shards, 2 made now in \d+ s; "
        r"the teacher recognises \d+\.\d% as what they were made for\n",
        result.stdout,
    )
    assert "synthesize: 8/8 images" in result.stderr
    assert sorted(digests(tmp_path)) == [
        "dreams-00000-of-00002.h5",
        "dreams-00001-of-00002.h5",
        "dreams.h5",
    ]


@pytest.mark.parametrize(
    ("factor", "arguments", "is_said"),
    [(0.9, [], True), (1.1, [], False), (0.9, ["--bn-weight", "50"], False)],
)
def test_a_loss_beyond_the_usual_is_said(synth, monkeypatch, factor, arguments, is_said):
    loss = json.loads(synth(*arguments, "--json").stdout)["mean_loss"]
    monkeypatch.setattr("dreamforge.remarks.SUSPICIOUS_LOSS", factor * loss)

    again = synth(*arguments)

    assert again.exit_code == 0
    assert (f"warning: the dreams' mean loss is {loss:.1f}" in again.stderr) == is_said
    warnings = json.loads(synth(*arguments, "--json").stdout)["warnings"]
    said = re.findall(r"^(?:assumed|note|warning): (.+)$", again.stderr, re.MULTILINE)
    assert warnings == said
    assert any(text.startswith("the dreams' mean loss") for text in warnings) == is_said


def test_json_is_the_only_thing_on_stdout(synth, tmp_path):
    out = tmp_path / "folder" / "set.h5"
    record = json.loads(synth("--json", "--out", out, "--license", "CC0-1.0").stdout)
    manifest = DreamSet.open(out).manifest

    assert record["out"] == str(out)
    assert (record["finished"], record["num_images"]) == (True, 8)
    assert (record["num_shards"], record["num_shards_made"]) == (2, 2)
    assert record["seconds"] > 0
    assert record["teacher_accuracy_on_dreams"] == manifest.quality["teacher_accuracy"]
    assert 0 <= record["teacher_accuracy_on_dreams"] <= 1
    assert manifest.provenance["license"] == "CC0-1.0"
    assert manifest.provenance["preset"] == "default"
    assert manifest.provenance["command"]


def test_the_same_command_again_changes_nothing(synth, tmp_path):
    first = json.loads(synth("--json").stdout)
    before = digests(tmp_path)
    again, shown = synth("--json"), synth()

    record = json.loads(again.stdout)
    assert record["num_shards_made"] == 0
    assert record["teacher_accuracy_on_dreams"] == first["teacher_accuracy_on_dreams"]
    assert "already finished" in shown.stdout
    assert digests(tmp_path) == before


def test_other_arguments_are_refused_unless_overwritten(synth, tmp_path):
    assert synth().exit_code == 0
    signature = tmp_path / "dreams.h5.sig"
    signature.write_text("-----BEGIN SSH SIGNATURE-----")
    assert synth().exit_code == 0
    before = digests(tmp_path)

    refused = synth("--steps", 4)
    assert refused.exit_code == 4
    assert "steps was 3, now 4" in error_of(refused)
    assert digests(tmp_path) == before

    replaced = synth("--steps", 4, "--overwrite")
    assert replaced.exit_code == 0
    assert DreamSet.open(tmp_path / "dreams.h5").manifest.synthesis["steps"] == 4
    assert not signature.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--steps", "0"], "--steps"),
        (["--steps", "many"], "--steps"),
        (["--n", "1"], "--n"),
        (["--preset", "nobody2020"], "--preset"),
        (["--no-such-option"], "--no-such-option"),
        (["--worker", "3"], "--worker: found '3', expected INDEX/COUNT"),
        (["--worker", "/4"], "--worker: found '/4'"),
        (["--worker", "4/4"], "--worker: found 4/4, expected 0/N to N-1/N"),
        (["--device", "tpu"], "--device tpu"),
        (["--image-size", "big"], "--image-size"),
        (["--mean", "a,b,c"], "--mean"),
        (["--arch", "resnet9000"], "resnet9000"),
    ],
)
def test_wrong_options_are_exit_code_2(synth, tmp_path, arguments, text):
    result = synth(*arguments)

    assert result.exit_code == 2, result.output
    assert text in error_of(result)
    assert not list(tmp_path.iterdir())


def test_a_teacher_is_required(runner):
    result = runner.invoke(main, ["synth"])

    assert result.exit_code == 2
    assert "--teacher" in error_of(result)


class Payload:
    """What a malicious checkpoint holds: unpickled in earnest, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def _missing(path: Path, teacher_file: Path) -> None:
    assert not path.exists()


def _truncated(path: Path, teacher_file: Path) -> None:
    torch.save(build_network("resnet8", num_classes=4).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])


def _truncated_safetensors(path: Path, teacher_file: Path) -> None:
    path.write_bytes(teacher_file.read_bytes()[:-2000])


def _text(path: Path, teacher_file: Path) -> None:
    path.write_text("404: not found\n")


def _empty(path: Path, teacher_file: Path) -> None:
    path.touch()


def _with_code(path: Path, teacher_file: Path) -> None:
    torch.save({"state_dict": Payload(path.with_name("pwned"))}, path)


def _with_code_in_a_plain_pickle(path: Path, teacher_file: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.with_name("pwned"))))


def _without_batch_norm(path: Path, teacher_file: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)).state_dict(), path)


def _of_nobody(path: Path, teacher_file: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict(), path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_missing, "cannot be read: No such file"),
        (_truncated, "truncated or damaged"),
        (_truncated_safetensors, "damaged"),
        (_text, "a text file starting with '404: not found"),
        (_empty, "empty file"),
        (_with_code, "importing that could run code"),
        (_with_code_in_a_plain_pickle, "teacher.pt"),
        (_without_batch_norm, "BatchNorm"),
        (_of_nobody, "--arch"),
    ],
)
def test_files_that_are_no_teacher_are_one_line_and_exit_code_3(
    runner, teacher_file, tmp_path, make, text
):
    path = tmp_path / "teacher.pt"
    make(path, teacher_file)
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "dreams.h5"
    result = runner.invoke(main, ["synth", "--teacher", str(path), "--out", str(out)])

    assert result.exit_code == 3, result.output
    assert result.stderr.count("\n") == 1
    message = error_of(result)
    assert str(path) in message
    assert text in message
    assert sorted(tmp_path.iterdir()) == before  # neither a dream set nor what a payload writes


def test_a_dry_run_says_what_it_will_cost_and_writes_nothing(synth, tmp_path):
    plan = json.loads(synth("--dry-run", "--json").stdout)
    shown = synth("--dry-run")

    assert plan["hours"] > 0
    assert plan["num_bytes_on_disk"] == 8 * (3 * 8 * 8 + 2 * 4 + 8 + 4 + 4)
    assert plan["num_bytes_in_memory"] > 0
    assert plan["num_bytes_of_process"] > 100 * 2**20  # PyTorch alone takes more
    assert re.search(r"MiB for a batch, .* MiB free; the process took [\d,]+ MiB", shown.stdout)
    assert plan["num_shards"] == 2
    assert plan["warnings"] == re.findall("^(?:assumed|note): (.+)$", shown.stderr, re.MULTILINE)
    assert plan["teacher"]["architecture"] == "resnet8"
    assert plan["config"]["batch_size"] == 4
    for word in ("resnet8, 4 classes", "3 per batch", "dreams.h5 and 2 shards", "MiB free"):
        assert word in shown.stdout
    assert not list(tmp_path.iterdir())


def test_flags_win_over_the_preset(synth, tmp_path):
    plan = json.loads(synth("--dry-run", "--json", "--preset", "tripurwar2025").stdout)

    config = plan["config"]
    assert (config["steps"], config["batch_size"]) == (3, 4)
    assert (config["class_loss"], config["lr"], config["init"]) == ("entropy", 0.05, "white")
    assert config["jitter"] == 1  # a seventh of 8 pixels


def test_without_targets_the_labels_are_the_teachers_answers(synth, tmp_path):
    assert synth("--preset", "tripurwar2025", "--seed", 3).exit_code == 0
    dreams = DreamSet.open(tmp_path / "dreams.h5")
    rows = dreams.read(0, 8)

    assert torch.equal(rows.labels, rows.logits.float().argmax(1))
    assert dreams.manifest.quality["teacher_accuracy"] == 1
    assert dreams.manifest.provenance["preset"] == "tripurwar2025"


def test_the_environment_wins_over_the_config_file_and_flags_win_over_both(
    runner, teacher_file, tmp_path
):
    file = tmp_path / "run.toml"
    file.write_text(
        f'[synth]\nteacher = "{teacher_file}"\nn = 12\nbatch-size = 6\nsteps = 3\nlr = 0.2\n'
        'mean = [0.5, 0.5, 0.5]\nflip = false\ndevice = "cpu"\ndry-run = true\n'
    )
    environment = {"DREAMFORGE_SYNTH_STEPS": "4", "DREAMFORGE_SYNTH_N": "18"}
    result = runner.invoke(
        main, ["--config", str(file), "synth", "--json", "--n", "24"], env=environment
    )

    config = json.loads(result.stdout)["config"]
    assert config["num_images"] == 24
    assert config["steps"] == 4
    assert (config["batch_size"], config["lr"], config["flip"]) == (6, 0.2, False)
    assert sorted(tmp_path.iterdir()) == [file]


def test_the_teacher_can_travel_in_the_index(synth, tiny_teacher: Teacher, tmp_path):
    assert synth("--embed-teacher").exit_code == 0
    blob = DreamSet.open(tmp_path / "dreams.h5").teacher_blob()

    assert blob is not None
    tensors = checkpoint_from_bytes(blob, "index").tensors
    assert fingerprint(tensors) == tiny_teacher.spec.fingerprint


def test_workers_make_their_share_and_the_last_one_the_index(synth, tmp_path):
    first = json.loads(synth("--worker", "1/2", "--json").stdout)
    assert (first["finished"], first["num_shards_made"]) == (False, 1)
    assert first["teacher_accuracy_on_dreams"] is None
    assert not (tmp_path / "dreams.h5").exists()
    assert "other workers still owe theirs" in synth("--worker", "1/2").stdout

    last = json.loads(synth("--worker", "0/2", "--json").stdout)
    assert (last["finished"], last["num_shards_made"]) == (True, 1)
    assert DreamSet.open(tmp_path / "dreams.h5").num_images == 8


def test_assumptions_are_said_aloud_and_recorded(runner, tiny_teacher, tmp_path):
    path = tmp_path / "resnet8.pt"
    torch.save(tiny_teacher.network.state_dict(), path)
    arguments = ["synth", "--teacher", str(path), "--out", str(tmp_path / "d.h5"), "--n", "4"]
    result = runner.invoke(main, [*arguments, *QUICK, "--image-size", "8", "--mean", "0.5"])

    assert result.exit_code == 0, result.output
    said = [
        line.removeprefix("assumed: ")
        for line in result.stderr.splitlines()
        if line.startswith("assumed: ")
    ]
    assert any("--std" in line for line in said)
    assert not any("image size" in line for line in said)
    assert list(DreamSet.open(tmp_path / "d.h5").manifest.teacher.assumptions) == said


def test_of_a_launchers_processes_one_says_what_was_assumed(
    runner, tiny_teacher, tmp_path, monkeypatch
):
    path = tmp_path / "resnet8.pt"
    torch.save(tiny_teacher.network.state_dict(), path)
    arguments = ["synth", "--teacher", str(path), "--out", str(tmp_path / "d.h5"), "--n", "4"]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = runner.invoke(main, [*arguments, *QUICK, "--image-size", "8"])

    assert result.exit_code == 0, result.output
    assert "assumed: " not in result.stderr


def test_class_names_come_from_a_file(synth, tmp_path):
    (tmp_path / "names").mkdir()
    names = tmp_path / "names" / "names.txt"
    names.write_text("a\nb\nc\nd\n")
    assert synth("--class-names", names).exit_code == 0
    assert DreamSet.open(tmp_path / "dreams.h5").manifest.teacher.class_names == tuple("abcd")

    names.write_text("a\nb\n")
    wrong = synth("--class-names", names)
    assert wrong.exit_code == 2
    assert "found 2, expected 4" in error_of(wrong)


def test_help_imports_no_torch():
    code = "import sys, dreamforge.cli; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def command_of(teacher_file: Path, *arguments: str) -> list[str]:
    words = ["--teacher", str(teacher_file), "--device", "cpu", "--precision", "float32"]
    return [sys.executable, "-m", "dreamforge", "synth", *words, *arguments]


def environment_of(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changes}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_which_command_goes_on(teacher_file, tmp_path, number):
    arguments = ["--n", "48", "--batch-size", "4", "--shard-size", "4", "--steps", "15"]
    process = subprocess.Popen(
        command_of(teacher_file, *arguments, "--out", "my dreams.h5"),
        cwd=tmp_path,
        env=environment_of(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("my dreams-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors
    assert not (tmp_path / "my dreams.h5").exists()
    said = errors.splitlines()[-1]
    assert "interrupted; the same command goes on from here: " in said
    program, *rest = shlex.split(said.partition("from here: ")[2])
    assert program == "python"
    if number == signal.SIGTERM:  # it goes on as after the other
        return
    again = subprocess.run(
        [sys.executable, *rest, "--json"],
        cwd=tmp_path,
        env=environment_of(),
        capture_output=True,
        check=True,
    )
    record = json.loads(again.stdout)
    assert record["finished"]
    assert 0 < record["num_shards_made"] < 12
    recorded = DreamSet.open(tmp_path / "my dreams.h5").manifest.provenance["command"]
    assert recorded == f"{said.partition('from here: ')[2]} --json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"TERM": "dumb"}, None),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, {"1", "2", "0", ""}),
    ],
)
def test_a_terminal_gets_what_it_asked_for(teacher_file, tmp_path, changes, allowed):
    """A dumb terminal gets no escape sequence at all; NO_COLOR takes out every color."""
    reader, writer = pty.openpty()
    environment = environment_of(**changes)
    if "NO_COLOR" not in changes:
        environment.pop("NO_COLOR", None)
    arguments = ["--n", "8", "--batch-size", "4", "--steps", "3"]
    command = command_of(teacher_file, *arguments)
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=writer, stderr=writer)
    os.close(writer)
    output = b""
    try:
        while block := os.read(reader, 4096):
            output += block
    except OSError:  # Linux: the other end is closed
        pass
    os.close(reader)

    assert process.wait(timeout=60) == 0, output
    text = output.decode()
    assert "8 dreams in" in text
    assert "synthesize" in text
    if allowed is None:
        assert "\x1b" not in text
    else:
        styles = {
            part for found in re.findall(r"\x1b\[([\d;]*)m", text) for part in found.split(";")
        }
        assert styles <= allowed
