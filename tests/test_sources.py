"""Where recover looks for the teacher that nobody named."""

import dataclasses
from pathlib import Path

import pytest
from dreamset_fixtures import write_dream_set

from recover.sources import find_answering_teacher, find_teacher
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.teacher import Teacher


def dreams_recording(folder: Path, teacher: Teacher, path: str) -> DreamSet:
    folder.mkdir(exist_ok=True)
    spec = dataclasses.replace(teacher.spec, path=path)
    return DreamSet.open(write_dream_set(folder, spec=spec))


@pytest.mark.parametrize("home", ["here", "beside the set"])
def test_a_relative_path_is_looked_for_here_and_beside_the_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_teacher: Teacher,
    teacher_file: Path,
    home: str,
) -> None:
    here, sets = tmp_path / "here", tmp_path / "sets"
    here.mkdir()
    monkeypatch.chdir(here)
    dreams = dreams_recording(sets, tiny_teacher, "weights/teacher.safetensors")
    with pytest.raises(ConfigError, match=r"weights/teacher\.safetensors.*--teacher"):
        find_teacher(dreams, None)

    copy = (here if home == "here" else sets) / "weights" / "teacher.safetensors"
    copy.parent.mkdir()
    copy.write_bytes(teacher_file.read_bytes())

    assert find_teacher(dreams, None).spec.fingerprint == tiny_teacher.spec.fingerprint


def test_an_absolute_path_of_an_older_set_still_leads_there(
    tmp_path: Path, tiny_teacher: Teacher, teacher_file: Path
) -> None:
    dreams = dreams_recording(tmp_path / "sets", tiny_teacher, str(teacher_file.resolve()))

    assert find_teacher(dreams, None).spec.fingerprint == tiny_teacher.spec.fingerprint


@pytest.mark.parametrize("path", ["x" * 5000, "a/" * 3000 + "b", "a\0b"])
def test_a_path_that_no_file_can_have_is_not_there(
    tmp_path: Path, tiny_teacher: Teacher, path: str
) -> None:
    dreams = dreams_recording(tmp_path, tiny_teacher, path)

    with pytest.raises(ConfigError, match="--teacher") as caught:
        find_teacher(dreams, None)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert str(caught.value).isprintable()
    assert find_answering_teacher(dreams) == (None, ())
