import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import blobs
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set
from PIL import Image

from dreamforge.cli import main
from shared.dreams import FIELDS, DreamBatch
from shared.dreamset import DreamSet
from shared.files import sha256_of
from shared.shards import read_index

HOSTILE = "[red]x[/red]\x1b[2J\x1b]0;owned\x07<script>\r\n\u202e"


@pytest.fixture
def dreams(tmp_path: Path) -> Path:
    provenance = {"license": "CC0-1.0", "command": "dreamforge synth", "seconds": 7200}
    return write_dream_set(tmp_path, num_shards=3, provenance=provenance)


def run(runner: CliRunner, *arguments: object, code: int = 0) -> Result:
    result = runner.invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    if code > 1:
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
    return result


def rows_of(index: Path) -> DreamBatch:
    found = DreamSet.open(index)
    return found.read(0, found.num_images)


def same(found: DreamBatch, expected: DreamBatch) -> bool:
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name, _, _ in FIELDS)


def test_info_says_what_is_in_the_set(runner, dreams):
    text = run(runner, "info", dreams).stdout
    assert "24 of 3x8x8" in text
    assert "8x8, 3 channels" in text
    assert "0.5, 0.5, 0.5 for pixels in [0, 1]" in text
    assert "0.25, 0.25, 0.25 for pixels in [0, 1]" in text
    assert "2.00 h" in text
    assert read_index(dreams).manifest.digest() in "".join(re.findall(r"[0-9a-f]+", text))
    assert "CC0-1.0" in text

    record = json.loads(run(runner, "info", dreams, "--json").stdout)
    assert record["num_images"] == 24
    assert record["hours"] == 2.0
    assert record["classes"][1] == {"label": 1, "name": "green", "num_images": 6}


def test_verify_finds_nothing_and_then_every_problem(runner, dreams, tmp_path):
    result = run(runner, "verify", dreams, "--deep")
    assert ": fine; 24 images in 3 shards" in result.stdout
    shards = sorted(tmp_path.glob("dreams-*"))
    shards[0].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-1] + b"?")

    result = run(runner, "verify", dreams, code=1)
    problems = result.stdout.splitlines()[:-1]
    assert [Path(line.split(":")[0]).name for line in problems] == [shards[0].name, shards[2].name]
    report = json.loads(run(runner, "verify", dreams, "--json", code=1).stdout)
    assert (report["fine"], len(report["problems"])) == (False, 2)


def test_verify_with_a_teacher_lists_all_problems_even_if_a_shard_is_missing(
    runner, teacher_file, tiny_teacher, tmp_path
):
    plain = tiny_dreams()
    index = write_dream_set(tmp_path, num_shards=3, dreams=plain, spec=tiny_teacher.spec)
    sorted(tmp_path.glob("dreams-*"))[1].unlink()

    options = ("--teacher", teacher_file, "--device", "cpu", "--json")
    report = json.loads(run(runner, "verify", index, *options, code=1).stdout)
    problems = report["problems"]

    assert len(problems) == 3
    assert "not found" in problems[1]
    assert all("logits differ from the teacher's" in problems[number] for number in (0, 2))


@pytest.mark.parametrize(
    ("option", "value"), [("--mean", "0.5"), ("--arch", "resnet8"), ("--answers", "sigmoid")]
)
def test_what_describes_a_teacher_is_not_passed_over_without_one(runner, dreams, option, value):
    result = run(runner, "verify", dreams, option, value, code=2)

    assert f"{option}: found no --teacher" in result.stderr


def test_verify_of_something_else_is_one_problem(runner, tmp_path, teacher_file):
    path = tmp_path / "dreams.h5"
    path.write_bytes(b"nonsense")

    assert "no dream set" in run(runner, "verify", path, code=1).stdout
    assert "no dream set" in run(runner, "verify", path, "--teacher", teacher_file, code=1).stdout


def test_preview_draws_a_picture_and_does_not_replace_one(runner, dreams, tmp_path):
    result = run(runner, "preview", dreams, "--classes", 2, "--per-class", 3, "--json")
    record = json.loads(result.stdout)
    with Image.open(tmp_path / "dreams.png") as picture:
        assert picture.size == (record["width"], record["height"])

    assert "is there already" in run(runner, "preview", dreams, code=2).stderr
    run(runner, "preview", dreams, "--overwrite", "--sort", "random")


def test_card_writes_both_files_once(runner, dreams, tmp_path):
    written = run(runner, "card", dreams, "--name", "Tiny", "--creator", "Lab").stdout.split()
    assert [Path(path).name for path in written] == ["README.md", "croissant.json"]
    assert json.loads((tmp_path / "croissant.json").read_text())["name"] == "Tiny"

    assert "README.md: is there already" in run(runner, "card", dreams, code=2).stderr
    record = json.loads(run(runner, "card", dreams, "--overwrite", "--json").stdout)
    assert record["readme"] == str(tmp_path / "README.md")


def test_merge_joins_sets_of_one_teacher(runner, dreams, tmp_path):
    other = write_dream_set(tmp_path, name="other.h5", dreams=tiny_dreams(8, seed=1))
    out = tmp_path / "both.h5"
    record = json.loads(run(runner, "merge", dreams, other, "--out", out, "--json").stdout)

    assert record["num_images"] == 32
    assert torch.equal(rows_of(out).images[24:], tiny_dreams(8, seed=1).images)
    provenance = read_index(out).manifest.provenance
    assert [source["name"] for source in provenance["sources"]] == ["dreams.h5", "other.h5"]
    assert "is there already" in run(runner, "merge", dreams, other, "--out", out, code=2).stderr
    run(runner, "merge", other, dreams, "--out", out, "--overwrite", "--shard-size", 10)
    assert len(read_index(out).manifest.shards) == 4


def test_sets_of_two_teachers_do_not_merge(runner, dreams, tmp_path):
    other = write_dream_set(tmp_path, name="other.h5", spec=tiny_spec(fingerprint="cd" * 32))
    result = run(runner, "merge", dreams, other, "--out", tmp_path / "both.h5", code=4)

    assert "only sets of one teacher" in result.stderr
    assert not list(tmp_path.glob("both*"))


def test_filter_keeps_what_meets_the_criteria(runner, dreams, tmp_path):
    out = tmp_path / "few.h5"
    options = ("--per-class", 2, "--agree", "--min-confidence", 0.3, "--compress")
    assert "8 images in 1 shards" in run(runner, "filter", dreams, *options, "--out", out).stdout
    assert rows_of(out).labels.bincount().tolist() == [2, 2, 2, 2]

    record = run(runner, "filter", dreams, "--n", 5, "--out", tmp_path / "five.h5", "--json").stdout
    assert json.loads(record)["num_images"] == 5
    none = ("--min-confidence", 1, "--out", tmp_path / "none.h5")
    assert "none of 24 dreams" in run(runner, "filter", dreams, *none, code=2).stderr
    assert "to read" in run(runner, "filter", dreams, "--n", 5, "--out", dreams, code=2).stderr


def test_a_wrong_number_is_told_with_where_it_was_said(runner, dreams, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMFORGE_FILTER_N", "0")
    result = runner.invoke(main, ["filter", str(dreams), "--out", str(tmp_path / "few.h5")])
    assert result.exit_code == 2
    assert result.stderr.endswith("x>=1. (from DREAMFORGE_FILTER_N)\n")

    file = tmp_path / "options.toml"
    file.write_text('[draw]\nn = "some"\nout = "scenes.h5"\nteacher = "net.pt"')
    result = runner.invoke(main, ["--config", str(file), "draw"])
    assert result.exit_code == 2
    assert result.stderr.endswith("'some', expected a whole number (from the file of --config)\n")


def test_pack_and_unpack_are_exact(runner, dreams, tmp_path):
    packed, again = tmp_path / "packed.h5", tmp_path / "again" / "dreams.h5"
    assert "in one file" in run(runner, "pack", dreams, "--out", packed).stdout
    run(runner, "verify", packed, "--deep")
    assert "already" in run(runner, "pack", dreams, "--out", packed, code=2).stderr
    run(runner, "unpack", packed, "--out", again, "--shard-size", 8)

    assert same(rows_of(packed), tiny_dreams())
    for shard in sorted(tmp_path.glob("dreams-*")):
        assert sha256_of(again.parent / shard.name) == sha256_of(shard)
    assert read_index(again).manifest.provenance == read_index(dreams).manifest.provenance
    record = json.loads(
        run(runner, "pack", dreams, "--out", packed, "--overwrite", "--json").stdout
    )
    assert record["num_shards"] == 0


@pytest.mark.parametrize("to", ["imagefolder", "webdataset", "npz"])
def test_export_keeps_the_pixels_and_an_earlier_export(runner, dreams, tmp_path, to):
    out = tmp_path / "exported"
    record = json.loads(run(runner, "export", dreams, "--to", to, "--out", out, "--json").stdout)

    assert record["num_images"] == 24
    assert (
        "is there already" in run(runner, "export", dreams, "--to", to, "--out", out, code=2).stderr
    )
    assert (
        "24 images" in run(runner, "export", dreams, "--to", to, "--out", out, "--overwrite").stdout
    )
    assert not list(tmp_path.glob(".*"))
    if to == "npz":
        with np.load(out) as arrays:
            assert np.array_equal(arrays["images"], tiny_dreams().images.numpy())


def test_export_replaces_nothing_but_an_export(runner, dreams, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("years of work")
    options = ("--to", "imagefolder", "--out", out, "--overwrite")

    assert "no earlier export" in run(runner, "export", dreams, *options, code=2).stderr
    assert (out / "chapter1.tex").read_text() == "years of work"


def test_import_labels_real_images_with_the_teacher(runner, teacher_file, tiny_teacher, tmp_path):
    images, labels = blobs(16)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "real" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    out = tmp_path / "real.h5"
    command = ("import", tmp_path / "real", "--teacher", teacher_file, "--out", out)
    options = ("--device", "cpu", "--license", "CC0-1.0")
    record = json.loads(run(runner, *command, *options, "--json").stdout)

    assert record["num_images"] == 16
    manifest = read_index(out).manifest
    assert manifest.provenance["synthetic"] is False
    assert manifest.provenance["license"] == "CC0-1.0"
    rows = rows_of(out)
    assert torch.equal(rows.logits, tiny_teacher.logits(rows.images).half())
    assert "NO: real images" in run(runner, "info", out).stdout
    run(runner, "verify", out, "--deep", "--teacher", teacher_file, "--device", "cpu")
    assert "is there already" in run(runner, *command, code=2).stderr
    nothing = run(runner, "import", tmp_path / "no", *command[2:], "--overwrite", code=3)
    assert "no such folder" in nothing.stderr


def test_strings_of_a_file_are_printed_harmlessly(runner, tmp_path):
    spec = tiny_spec(class_names=(HOSTILE, "b", "c", "d"), architecture=HOSTILE, path=HOSTILE)
    provenance = {"license": HOSTILE, "command": HOSTILE, "device": HOSTILE, "created": HOSTILE}
    provenance["versions"] = {HOSTILE: HOSTILE}
    synthesis = {"method": HOSTILE, "steps": HOSTILE}
    index = write_dream_set(tmp_path, spec=spec, provenance=provenance, synthesis=synthesis)
    commands = [
        ("info", index),
        ("info", index, "--json"),
        ("verify", index, "--deep"),
        ("preview", index),
        ("card", index),
        ("filter", index, "--n", 4, "--out", tmp_path / "few.h5"),
        ("pack", index, "--out", tmp_path / "one.h5", "--json"),
        ("export", index, "--to", "imagefolder", "--out", tmp_path / "folder"),
    ]
    for command in commands:
        result = run(runner, *command)
        # The bell and escapes would act on a terminal, the mark would turn the text around.
        assert not set(result.output) & set("\x1b\x07\r\u202e"), command
    assert "[red]x[/red]" in run(runner, "info", index).stdout
    for path in (tmp_path / "README.md", tmp_path / "croissant.json"):
        assert "\x1b" not in path.read_text()
    other = write_dream_set(tmp_path, name="b.h5", spec=tiny_spec(mean=(0.1, 0.1, 0.1)))
    refused = run(runner, "merge", index, other, "--out", tmp_path / "c.h5", code=4)
    assert "\x1b" not in refused.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "DREAMS"),
        ("preview", "DREAMS"),
        ("card", "DREAMS"),
        ("filter", "DREAMS", "--out", "OUT"),
        ("pack", "DREAMS", "--out", "OUT"),
        ("unpack", "DREAMS", "--out", "OUT"),
        ("merge", "DREAMS", "DREAMS", "--out", "OUT"),
        ("export", "DREAMS", "--to", "npz", "--out", "OUT"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_file_that_is_no_dream_set_ends_every_command_with_three(runner, tmp_path, arguments):
    path = tmp_path / "dreams.h5"
    path.write_text("text")
    places = {"DREAMS": path, "OUT": tmp_path / "out.h5"}
    result = run(runner, *(places.get(argument, argument) for argument in arguments), code=3)

    assert str(path) in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["dreams.h5"]


def test_every_command_offers_json():
    for name, command in main.commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options, name


def test_an_export_to_one_file_replaces_nothing_but_another(runner, dreams, tmp_path):
    out = tmp_path / "weights.npz"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("years/of/work", "")
    for _ in range(2):
        before = out.read_bytes()
        result = run(runner, "export", dreams, "--to", "npz", "--out", out, "--overwrite", code=2)
        assert "no earlier export" in result.stderr
        assert out.read_bytes() == before
        out.write_bytes(b"text")


@pytest.mark.parametrize("name", [".", ".."])
@pytest.mark.parametrize("command", ["preview", "card", "info", "verify"])
def test_a_folder_is_no_set(runner, command: str, name: str) -> None:
    result = runner.invoke(main, [command, name])

    assert result.exit_code == (1 if command == "verify" else 3), result.output
    assert "empty or not a file, expected HDF5" in result.output


def test_names_with_accents_are_read_in_any_locale(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path, name="rêves.h5")
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    script = (  # one process: starting one takes longer than all three
        "import sys\n"
        "from dreamforge.cli import main\n"
        "for words in (['verify', '--deep'], ['preview'], ['pack', '--out', sys.argv[2]]):\n"
        "    assert main([*words, sys.argv[1]], standalone_mode=False) in (None, 0), words\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(index), str(tmp_path / "b.h5")],
        env=os.environ | plain | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
    )
    assert (tmp_path / "b.h5").is_file()


def test_a_misspelt_device_is_refused_though_nothing_is_computed(runner, dreams: Path) -> None:
    result = run(runner, "verify", dreams, "--device", "nonsense", code=2)

    assert "nonsense" in result.stderr


def test_the_folder_of_a_contact_sheet_is_made(runner, dreams: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.png"
    run(runner, "preview", dreams, "--out", out)
    assert out.is_file()

    inside = out / "b.png"  # no folder
    for words in (["preview"], ["export", "--to", "npz"], ["pack"]):
        result = run(runner, words[0], dreams, *words[1:], "--out", inside, code=1)
        assert f"{inside}: cannot be written to (" in result.stderr
        assert "; choose another place" in result.stderr


@pytest.mark.parametrize("words", [["synth", "--help"], ["info", "dreams.h5", "--json"]])
def test_a_closed_pipe_is_no_error_message(dreams: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "dreamforge", *words],
        cwd=dreams.parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)

    assert done.stderr == b""
