import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dreamforge import forge
from dreamforge.forge import synthesize
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.files import sha256_of
from shared.teacher import load_teacher
from shared.workers import Worker

CPU = torch.device("cpu")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.h5"))}


@pytest.fixture
def undisturbed(tiny_teacher, tiny_config, tmp_path) -> dict[str, str]:
    out = tmp_path / "undisturbed" / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    return digests(out.parent)


def test_a_set_is_complete_and_says_where_it_came_from(tiny_teacher, tiny_config, tmp_path):
    out = tmp_path / "dreams.h5"
    result = synthesize(
        tiny_teacher, tiny_config, out, CPU, provenance={"license": "CC0-1.0"}, embed_teacher=True
    )
    dreams = DreamSet.open(out)

    assert (result.num_images, result.num_shards, result.num_made) == (24, 3, 3)
    assert dreams.num_images == 24
    assert torch.bincount(dreams.labels).tolist() == [6, 6, 6, 6]
    assert dreams.manifest.teacher.fingerprint == tiny_teacher.spec.fingerprint
    assert dreams.manifest.provenance["license"] == "CC0-1.0"
    assert dreams.manifest.synthesis["steps"] == 6
    assert dreams.manifest.quality["teacher_accuracy"] == result.quality["teacher_accuracy"]
    assert dreams.teacher_blob()
    rows = dreams.read(0, 24)
    assert torch.equal(rows.logits, tiny_teacher.logits(rows.images).to(torch.float16))


def test_calling_again_changes_nothing(tiny_teacher, tiny_config, tmp_path):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    before = digests(tmp_path)
    again = synthesize(tiny_teacher, tiny_config, out, CPU)

    assert again.num_made == 0
    assert again.finished
    assert digests(tmp_path) == before


@pytest.mark.parametrize("lost", ["dreams.h5", "dreams-00001-of-00003.h5"])
def test_what_was_deleted_is_made_again_to_the_byte(
    tiny_teacher, tiny_config, tmp_path, undisturbed, lost
):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    (tmp_path / lost).unlink()
    (tmp_path / "dreams.h5").unlink(missing_ok=True)
    synthesize(tiny_teacher, tiny_config, out, CPU)

    assert digests(tmp_path) == undisturbed


def test_a_damaged_shard_is_noticed_and_made_again(
    tiny_teacher, tiny_config, tmp_path, undisturbed
):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    out.unlink()
    shard = tmp_path / "dreams-00002-of-00003.h5"
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[: len(data) // 2])
    result = synthesize(tiny_teacher, tiny_config, out, CPU)

    assert result.num_made == 1
    assert any("dreams-00002-of-00003.h5" in note for note in result.notes)
    assert digests(tmp_path) == undisturbed


def test_workers_in_any_order_make_the_same_bytes(tiny_teacher, tiny_config, tmp_path, undisturbed):
    out = tmp_path / "workers" / "dreams.h5"
    results = [
        synthesize(tiny_teacher, tiny_config, out, CPU, worker=Worker(index=index, count=2))
        for index in (1, 0)
    ]

    assert [result.num_made for result in results] == [1, 2]
    assert [result.finished for result in results] == [False, True]
    assert digests(out.parent) == undisturbed


@pytest.mark.parametrize(
    ("change", "named"),
    [({"steps": 7}, "steps was 6, now 7"), ({"num_images": 16}, "num_images was 24, now 16")],
)
def test_other_arguments_are_refused_by_name(tiny_teacher, tiny_config, tmp_path, change, named):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    before = digests(tmp_path)

    with pytest.raises(IncompatibleError, match=named):
        synthesize(tiny_teacher, dataclasses.replace(tiny_config, **change), out, CPU)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("num_before", [0, 1])
def test_a_worker_that_began_beside_others_of_other_arguments_stops(
    tiny_teacher, tiny_config, tmp_path, monkeypatch, num_before
):
    out = tmp_path / "dreams.h5"
    mine = dataclasses.replace(tiny_config, num_images=40)
    other, second = dataclasses.replace(mine, steps=7), Worker(index=1, count=3)
    make, num_made = forge._make_shard, 0

    def make_beside(*arguments):
        nonlocal num_made
        if num_made == num_before:  # another one of three looked at the folder when this one did
            with monkeypatch.context() as alone:
                alone.setattr(forge, "_make_shard", make)
                synthesize(tiny_teacher, other, tmp_path / "other" / out.name, CPU, worker=second)
            for shard in (tmp_path / "other").glob("*-of-*.h5"):
                shard.rename(tmp_path / shard.name)
        num_made += 1
        return make(*arguments)

    monkeypatch.setattr(forge, "_make_shard", make_beside)
    with pytest.raises(IncompatibleError, match="steps was 7, now 6"):
        synthesize(tiny_teacher, mine, out, CPU, worker=Worker(index=0, count=3))
    assert num_made == num_before + 1  # of its two shards


def test_another_teacher_is_refused(tiny_teacher, tiny_config, tmp_path):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    spec = dataclasses.replace(tiny_teacher.spec, fingerprint="0" * 64)

    with pytest.raises(IncompatibleError, match="teacher is another one"):
        synthesize(dataclasses.replace(tiny_teacher, spec=spec), tiny_config, out, CPU)


def test_overwrite_replaces_the_set(tiny_teacher, tiny_config, tmp_path):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    fewer = dataclasses.replace(tiny_config, num_images=16)
    synthesize(tiny_teacher, fewer, out, CPU, overwrite=True)

    assert DreamSet.open(out).num_images == 16
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_run_leaves_finished_shards_and_no_index(
    tiny_teacher, tiny_config, tmp_path, monkeypatch, undisturbed
):
    out = tmp_path / "dreams.h5"
    original = forge.write_shard
    written = []

    def dying(path, *args, **kwargs):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(forge, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tiny_teacher, tiny_config, out, CPU)
    assert [path.name for path in written] == ["dreams-00000-of-00003.h5"]
    assert not out.exists()

    monkeypatch.setattr(forge, "write_shard", original)
    result = synthesize(tiny_teacher, tiny_config, out, CPU)
    assert result.num_made == 2
    assert digests(tmp_path) == undisturbed


@pytest.mark.slow
def test_kill_minus_nine_and_the_same_command_again_give_the_undisturbed_bytes(
    teacher_file, tmp_path
):
    """The whole folder, index and all: SOURCE_DATE_EPOCH fixes the one date in it."""
    command = [sys.executable, "-m", "dreamforge", "synth", "--teacher", str(teacher_file)]
    command += [
        "--n",
        "48",
        "--batch-size",
        "4",
        "--shard-size",
        "4",
        "--steps",
        "10",
        "--out",
        "dreams.h5",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(forge.__file__).parent.parent)

    def run(name: str, *, kill: bool) -> None:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if kill:
            deadline = time.monotonic() + 60
            while len(list(folder.glob("dreams-*.h5"))) < 3 and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if kill else 0), errors

    run("killed", kill=True)
    assert not (tmp_path / "killed" / "dreams.h5").exists()
    run("killed", kill=False)
    run("undisturbed", kill=False)

    assert digests(tmp_path / "killed") == digests(tmp_path / "undisturbed")


def test_folders_of_the_teacher_are_recorded_as_given_and_not_with_its_weights(
    tiny_teacher, tiny_config, tmp_path
):
    spec = dataclasses.replace(tiny_teacher.spec, path="private/place/teacher.pt")
    teacher = dataclasses.replace(tiny_teacher, spec=spec)

    for embed, path in ((False, "private/place/teacher.pt"), (True, "teacher.pt")):
        out = tmp_path / f"{embed}.h5"
        synthesize(teacher, tiny_config, out, CPU, embed_teacher=embed)
        assert DreamSet.open(out).manifest.teacher.path == path
        assert (b"private" in out.read_bytes()) is not embed


def test_a_loaded_teacher_says_the_path_it_was_given(teacher_file, monkeypatch):
    monkeypatch.chdir(teacher_file.parent)

    assert load_teacher(teacher_file.name).spec.path == teacher_file.name
