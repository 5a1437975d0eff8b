"""A dream set that is being made survives whatever happens to it."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

from dreamforge import engine, forge, resume
from dreamforge.cli import main
from dreamforge.config import SynthesisConfig
from dreamforge.filter import Criteria, filter_set
from dreamforge.forge import synthesize
from dreamforge.journal import Journal
from dreamforge.pack import pack
from shared import shards as shards_module
from shared.dreamset import DreamSet
from shared.errors import (
    DreamforgeError,
    DreamSetError,
    FormatVersionError,
    IncompatibleError,
)
from shared.files import sha256_of
from shared.shards import read_index, read_shard, read_shard_attributes, write_shard
from shared.teacher import Teacher
from shared.workers import Worker

CPU = torch.device("cpu")
FACTS = {"license": "CC0-1.0"}
SHARDS = tuple(f"dreams-0000{number}-of-00003.h5" for number in range(3))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.h5"))}


@pytest.fixture(scope="module")
def template(tiny_teacher, tiny_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    synthesize(tiny_teacher, tiny_config, folder / "dreams.h5", CPU, provenance=FACTS)
    return folder


@pytest.fixture
def out(template, tmp_path) -> Path:
    """A finished set, a copy of its own for each test."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "dreams.h5"


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def change_images(path: Path) -> None:
    """Write the shard anew with other pixels: every checksum inside is right."""
    dreams, attributes = read_shard(path), read_shard_attributes(path)
    names = ("shard", "num_shards", "teacher", "synthesis")
    dreams.images[0] ^= 1
    write_shard(path, dreams, {name: attributes[name] for name in names})


# Damage after the set was finished.


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: flip_byte(path, -1),
        lambda path: flip_byte(path, 0),
        change_images,
    ],
    ids=["deleted", "emptied", "data", "superblock", "other pixels"],
)
def test_a_finished_set_that_was_damaged_is_whole_again(
    tiny_teacher, tiny_config, tmp_path, out, damage
):
    before = digests(tmp_path)
    damage(tmp_path / SHARDS[1])
    result = synthesize(tiny_teacher, tiny_config, out, CPU, provenance=FACTS)

    assert (result.num_made, result.finished) == (1, True)
    assert digests(tmp_path) == before  # the index, too: its date and hours are those of the set


@pytest.mark.parametrize("position", [0, -1, 2000])
def test_a_damaged_index_is_written_again(tiny_teacher, tiny_config, tmp_path, out, position):
    digest = DreamSet.open(out).manifest.digest()
    flip_byte(out, position)
    result = synthesize(tiny_teacher, tiny_config, out, CPU, provenance=FACTS)

    assert result.num_made == 0
    assert DreamSet.open(out).manifest.digest() == digest


def test_a_shard_made_again_on_another_device_gets_into_the_index(
    tiny_teacher, tiny_config, tmp_path, out, monkeypatch
):
    seconds = read_index(out).manifest.provenance["seconds"]
    (tmp_path / SHARDS[1]).unlink()
    original = engine.to_images
    monkeypatch.setattr(engine, "to_images", lambda pixels: original(pixels) ^ 1)
    synthesize(tiny_teacher, tiny_config, out, CPU, provenance=FACTS)

    manifest = DreamSet.open(out).manifest
    assert manifest.shards[1].sha256 == sha256_of(tmp_path / SHARDS[1])
    assert manifest.provenance["seconds"] > seconds


def test_an_embedded_teacher_stays(tiny_teacher, tiny_config, tmp_path, monkeypatch):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU)
    synthesize(tiny_teacher, tiny_config, out, CPU, embed_teacher=True)
    blob = DreamSet.open(out).teacher_blob()
    assert blob

    (tmp_path / SHARDS[0]).unlink()
    original = engine.to_images
    monkeypatch.setattr(engine, "to_images", lambda pixels: original(pixels) ^ 1)
    synthesize(tiny_teacher, tiny_config, out, CPU)
    assert DreamSet.open(out).teacher_blob() == blob


def test_workers_repair_a_finished_set_together(tiny_teacher, tiny_config, tmp_path, out):
    before = digests(tmp_path)
    (tmp_path / SHARDS[0]).unlink()
    change_images(tmp_path / SHARDS[1])
    results = [
        synthesize(tiny_teacher, tiny_config, out, CPU, worker=Worker(index=index, count=2))
        for index in (0, 1)
    ]

    assert [(result.num_made, result.finished) for result in results] == [(1, False), (1, True)]
    assert {name: digests(tmp_path)[name] for name in SHARDS} == {n: before[n] for n in SHARDS}


# What must not be touched.


def test_sets_derived_from_the_run_are_not_overwritten(tiny_teacher, tiny_config, tmp_path, out):
    folder = tmp_path / "derived"
    filter_set(out, folder / "few.h5", Criteria(num_images=23), shard_size=8)
    pack(out, folder / "one.h5")
    before = digests(folder)

    for name in ("few.h5", "one.h5"):
        with pytest.raises(IncompatibleError, match="packed, filtered or merged"):
            synthesize(tiny_teacher, tiny_config, folder / name, CPU)
    assert digests(folder) == before


def test_an_unrelated_file_is_refused_before_anything_is_computed(
    tiny_teacher, tiny_config, tmp_path
):
    out = tmp_path / "results.h5"
    with h5py.File(out, "w") as file:
        file["precious"] = [1, 2, 3]
    before = digests(tmp_path)

    with pytest.raises(DreamSetError, match=r"not a dream set.*choose another --out$"):
        synthesize(tiny_teacher, tiny_config, out, CPU)
    assert digests(tmp_path) == before


def test_an_index_alone_of_another_run_is_refused(tiny_teacher, tiny_config, tmp_path, out):
    for name in SHARDS:
        (tmp_path / name).unlink()
    other = SynthesisConfig(**{**tiny_config.to_json(), "seed": 1})

    with pytest.raises(IncompatibleError, match="seed was 0, now 1"):
        synthesize(tiny_teacher, other, out, CPU)


@pytest.mark.parametrize("name", ["dreams.h5", SHARDS[1]])
def test_what_a_newer_version_made_is_left_alone(tiny_teacher, tiny_config, tmp_path, out, name):
    with h5py.File(tmp_path / name, "r+") as file:
        file.attrs.modify("format_version", 2)
    before = digests(tmp_path)

    with pytest.raises(FormatVersionError, match=rf"{name}: found format version 2.*update"):
        synthesize(tiny_teacher, tiny_config, out, CPU)
    assert digests(tmp_path) == before


def test_another_version_of_the_engine_does_not_finish_the_set(
    tiny_teacher, tiny_config, tmp_path, out, monkeypatch
):
    out.unlink()
    (tmp_path / SHARDS[2]).unlink()
    monkeypatch.setattr(resume, "ENGINE_VERSION", 2)

    with pytest.raises(IncompatibleError, match="engine was 1, now 2"):
        synthesize(tiny_teacher, tiny_config, out, CPU)


def test_a_shard_that_does_not_say_how_it_was_made_is_refused(
    tiny_teacher, tiny_config, tmp_path, out
):
    out.unlink()
    with h5py.File(tmp_path / SHARDS[1], "r+") as file:
        del file.attrs["synthesis"]

    with pytest.raises(IncompatibleError, match="does not say how it was made"):
        synthesize(tiny_teacher, tiny_config, out, CPU)


# Places that cannot be written to.


def test_a_folder_that_is_a_file_is_one_line(tiny_teacher, tiny_config, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "dreams.h5", tmp_path / "file" / "deeper" / "dreams.h5"):
        with pytest.raises(DreamforgeError, match=r"cannot be made a folder .*another --out"):
            synthesize(tiny_teacher, tiny_config, out, CPU)


def test_a_read_only_folder_is_refused_before_anything_is_computed(
    tiny_teacher, tiny_config, tmp_path, monkeypatch
):
    def refuse(**kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(kwargs["dir"]))

    monkeypatch.setattr(forge.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(forge, "shard_engines", None)
    with pytest.raises(DreamforgeError, match=r"cannot be written to \(Read-only file system\)"):
        synthesize(tiny_teacher, tiny_config, tmp_path / "dreams.h5", CPU)


def test_a_finished_set_in_a_read_only_folder_is_fine(tiny_teacher, tiny_config, out, monkeypatch):
    monkeypatch.setattr(forge, "_refuse_unwritable", None)
    monkeypatch.setattr(shards_module, "_create", None)

    assert synthesize(tiny_teacher, tiny_config, out, CPU).finished


def test_a_full_disk_costs_one_shard_and_no_more(
    tiny_teacher, tiny_config, tmp_path, out, monkeypatch
):
    folder = tmp_path / "full"
    original, written = shards_module._write_array, []

    def full(file, name, *args, **kwargs):
        written.append(name)
        if len(written) == 7:  # in the middle of the second shard
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(file, name, *args, **kwargs)

    monkeypatch.setattr(shards_module, "_write_array", full)
    with pytest.raises(DreamforgeError, match=f"{SHARDS[1]}: cannot be written .*No space left"):
        synthesize(tiny_teacher, tiny_config, folder / "dreams.h5", CPU)
    assert list(digests(folder)) == [SHARDS[0]]
    assert not list(folder.glob("*.tmp"))

    monkeypatch.setattr(shards_module, "_write_array", original)
    assert synthesize(tiny_teacher, tiny_config, folder / "dreams.h5", CPU).num_made == 2
    assert {n: digests(folder)[n] for n in SHARDS} == {n: digests(tmp_path)[n] for n in SHARDS}


def test_a_file_that_the_system_refuses_to_let_grow_is_one_line(
    tiny_teacher, tiny_config, tmp_path
):
    """No stand-in here: the kernel stops the write, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        with pytest.raises(DreamforgeError, match="cannot be written"):
            synthesize(tiny_teacher, tiny_config, tmp_path / "dreams.h5", CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert not list(tmp_path.glob("*.h5")) + list(tmp_path.glob("*.tmp"))


# Time, and other processes.


@pytest.mark.parametrize("seconds", [1, 2**33], ids=["1970", "2242"])
def test_file_times_do_not_matter(tiny_teacher, tiny_config, tmp_path, out, seconds):
    for path in tmp_path.glob("*.h5"):
        os.utime(path, (seconds, seconds))
    before = digests(tmp_path)

    assert synthesize(tiny_teacher, tiny_config, out, CPU).num_made == 0
    assert digests(tmp_path) == before


def test_a_shard_that_another_process_made_meanwhile_is_not_made_twice(
    tiny_teacher, tiny_config, tmp_path, monkeypatch
):
    out = tmp_path / "dreams.h5"
    original, inner = forge._make_shard, []

    def interrupted_by_another_process(*args):
        if not inner:
            inner.append(None)
            inner.append(synthesize(tiny_teacher, tiny_config, out, CPU, provenance=FACTS))
        return original(*args)

    monkeypatch.setattr(forge, "_make_shard", interrupted_by_another_process)
    result = synthesize(tiny_teacher, tiny_config, out, CPU, provenance=FACTS)

    assert (inner[1].num_made, result.num_made) == (3, 1)
    assert result.finished
    assert DreamSet.open(out).read(0, 24)


def test_two_commands_on_one_output_do_not_mix(tiny_teacher, tiny_config, tmp_path, monkeypatch):
    """Both found an empty folder; the slower one stops, and leaves the other's set alone."""
    out = tmp_path / "dreams.h5"
    other = SynthesisConfig(**{**tiny_config.to_json(), "seed": 1})
    original, inner = engine.Engine.synthesize, []

    def slower(self, *args):
        if not inner:
            inner.append(None)
            synthesize(tiny_teacher, other, out, CPU)
        return original(self, *args)

    monkeypatch.setattr(engine.Engine, "synthesize", slower)
    with pytest.raises(IncompatibleError, match="seed was 1, now 0"):
        synthesize(tiny_teacher, tiny_config, out, CPU)

    finished = DreamSet.open(out)
    finished.read(0, 24)
    assert finished.manifest.synthesis["seed"] == 1


def make(teacher: Teacher, config: SynthesisConfig, out: Path, barrier) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    synthesize(teacher, config, out, CPU)


@pytest.mark.slow
def test_two_processes_on_one_output_make_one_set(tiny_teacher, tiny_config, tmp_path, out):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    twice = tmp_path / "twice" / "dreams.h5"
    arguments = (tiny_teacher, tiny_config, twice, barrier)
    processes = [context.Process(target=make, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)

    assert [process.exitcode for process in processes] == [0, 0]
    assert {n: digests(twice.parent)[n] for n in SHARDS} == {
        n: digests(tmp_path)[n] for n in SHARDS
    }
    assert len(list(twice.parent.iterdir())) == 4
    DreamSet.open(twice).read(0, 24)


def test_overwriting_workers_do_not_remove_each_others_shards(
    tiny_teacher, tiny_config, tmp_path, out
):
    """Workers start at different times: the second one finds what the first has made."""
    other = SynthesisConfig(**{**tiny_config.to_json(), "seed": 1})
    (tmp_path / "dreams-00000-of-00009.h5").touch()  # of an older run
    results = [
        synthesize(
            tiny_teacher, other, out, CPU, worker=Worker(index=index, count=2), overwrite=True
        )
        for index in (0, 1)
    ]

    assert [(result.num_made, result.finished) for result in results] == [(2, False), (1, True)]
    assert list(digests(tmp_path)) == sorted(["dreams.h5", *SHARDS])
    assert DreamSet.open(out).manifest.synthesis["seed"] == 1


SMALL = (
    "--num-images",
    "12",
    "--batch-size",
    "4",
    "--shard-size",
    "4",
    "--steps",
    "3",
    "--device",
    "cpu",
)


@pytest.fixture
def reproducible(monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")


def test_tasks_of_a_slurm_array_in_any_order(runner, teacher_file, tmp_path, reproducible):
    def synth(folder: str, *more: str, code: int = 0) -> str:
        arguments = ["synth", "--teacher", str(teacher_file), *SMALL]
        result = runner.invoke(main, [*arguments, "--out", str(tmp_path / folder / "d.h5"), *more])
        assert result.exit_code == code, result.output
        return result.output

    assert "other workers still owe theirs" in synth("array", "--worker", "1/2")
    assert "12 dreams in 3 shards" in synth("array", "--worker", "0/2")
    synth("alone")
    assert digests(tmp_path / "array") == digests(tmp_path / "alone")
    for empty in ("/16", "", "3/", "16/16", "-1/4"):
        assert "--worker" in synth("array", f"--worker={empty}", code=2)


def test_workers_read_each_others_shards_only_once_all_are_there(
    tiny_teacher, tiny_config, tmp_path, monkeypatch
):
    read, path = [], tmp_path / "d.h5"
    monkeypatch.setattr(
        resume, "read_shard", lambda shard: read.append(shard.name) or read_shard(shard)
    )

    def shards_read(index: int) -> set[int]:
        read.clear()
        synthesize(tiny_teacher, tiny_config, path, CPU, worker=Worker(index=index, count=3))
        return {int(name[2:7]) for name in read}

    assert shards_read(0) == set()  # its own was not there when it looked
    assert shards_read(1) == set()
    assert shards_read(1) == {1}
    assert shards_read(2) == {0, 1, 2}


@pytest.mark.slow
def test_torchrun_makes_the_bytes_of_one_process(teacher_file, tmp_path):
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(forge.__file__).parent.parent)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launchers = {"alone": ["-m", "dreamforge"], "both": [*torchrun, "-m", "dreamforge"]}
    for name, launcher in launchers.items():
        arguments = ["synth", "--teacher", str(teacher_file), *SMALL, "--out", f"{name}/d.h5"]
        command = [sys.executable, *launcher, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr

    alone, both = (read_index(tmp_path / name / "d.h5").manifest for name in launchers)
    assert both.shards == alone.shards
    assert both.digest() == alone.digest()
    shards = [name for name in digests(tmp_path / "alone") if name != "d.h5"]
    assert [digests(tmp_path / "both")[n] for n in shards] == [
        digests(tmp_path / "alone")[n] for n in shards
    ]


# Hours.


def test_seconds_add_up_over_interruptions_and_stay_out_of_the_shards(
    tiny_teacher, tiny_config, tmp_path, out, monkeypatch
):
    folder = tmp_path / "interrupted"
    original, calls = forge.write_shard, []

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(forge, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tiny_teacher, tiny_config, folder / "dreams.h5", CPU, provenance=FACTS)
    journal = folder / ".dreams.journal.jsonl"
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [(row["shard"], row["finished"]) for row in rows] == [(0, True), (1, False)]
    assert "attempts" not in rows[0]  # nothing diverged

    rows[0]["seconds"] = 1000.0
    garbage = '{"cut off\n[1]\nnull\n{"seconds": NaN}\n{"seconds": 5, "run": "of another one"}\n'
    journal.write_text("\n".join(map(json.dumps, rows)) + "\n" + garbage)
    synthesize(tiny_teacher, tiny_config, folder / "dreams.h5", CPU, provenance=FACTS)

    assert 1000 < read_index(folder / "dreams.h5").manifest.provenance["seconds"] < 1100
    assert not journal.exists()
    assert {n: digests(folder)[n] for n in SHARDS} == {n: digests(tmp_path)[n] for n in SHARDS}


def test_a_reproducible_build_records_no_durations(
    tiny_teacher, tiny_config, tmp_path, reproducible
):
    out = tmp_path / "dreams.h5"
    synthesize(tiny_teacher, tiny_config, out, CPU, provenance=FACTS)

    assert read_index(out).manifest.provenance == {"synthetic": True, **FACTS}


def test_a_journal_that_cannot_be_written_costs_nothing(tmp_path):
    journal = Journal(tmp_path / "no such folder" / "dreams.h5", {}, "cpu")
    with journal.timing(0):
        pass
    journal.remove()

    assert journal.read().seconds is None


def test_the_journal_tells_devices_apart(tmp_path):
    for device in ("a", "b", "a"):
        with Journal(tmp_path / "dreams.h5", {"seed": 0}, device).timing(0):
            pass

    assert Journal(tmp_path / "dreams.h5", {"seed": 0}, "c").read().devices == ("a", "b")
    assert Journal(tmp_path / "dreams.h5", {"seed": 1}, "c").read().devices == ()
