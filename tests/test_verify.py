from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set
from torch import nn

from dreamforge.pack import unpack
from dreamforge.verify import verify
from shared.checkpoint import to_safetensors
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import DreamSetError
from shared.manifest import Manifest
from shared.progress import Progress
from shared.shards import read_index, write_index, write_shard
from shared.teacher import Teacher, fingerprint


@pytest.fixture
def teacher() -> Teacher:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        network[1].weight.copy_(torch.linspace(-0.1, 0.1, 768).view(4, 192).roll(100))
        network[1].bias.copy_(torch.tensor([0.5, 0.0, -0.5, 0.25]))
    return Teacher(network=network, spec=tiny_spec(fingerprint=fingerprint(network)))


@pytest.fixture
def answered(tmp_path: Path, teacher: Teacher) -> Path:
    """A set with the logits of ``teacher``, which is embedded."""
    plain = tiny_dreams()
    logits = teacher.logits(plain.images).half()
    dreams = DreamBatch(
        images=plain.images,
        labels=plain.labels,
        logits=logits,
        batch=plain.batch,
        loss=plain.loss,
    )
    blob = to_safetensors(teacher.network, {})
    return write_dream_set(tmp_path, dreams=dreams, spec=teacher.spec, teacher=blob)


def test_a_good_set_has_no_problems(answered: Path, teacher: Teacher) -> None:
    reports: list[Progress] = []

    report = verify(answered, deep=True, teacher=teacher, progress=reports.append)

    assert report.problems == ()
    assert report.fine
    assert report.num_images == 24
    assert report.num_bytes == sum(path.stat().st_size for path in answered.parent.iterdir())
    assert report.agreement == 1.0
    assert report.largest_difference < 0.01
    assert [(p.done, p.total, p.unit) for p in reports] == [(1, 2, "shards"), (2, 2, "shards")]
    assert report.to_json()["problems"] == []


def test_every_problem_is_listed_with_its_shard(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path, num_shards=6)
    shards = sorted(tmp_path.glob("dreams-*"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    data = bytearray(shards[3].read_bytes())
    data[2500] ^= 4
    shards[3].write_bytes(bytes(data))
    shards[4].write_bytes(b"x" * len(data))

    problems = verify(index).problems

    assert len(problems) == 4
    for problem, number, text in zip(
        problems, (0, 1, 3, 4), ("not found", "expected", "sha256", "sha256"), strict=True
    ):
        assert shards[number].name in problem
        assert text in problem


def test_an_unreadable_index_is_one_problem(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    index.write_bytes(index.read_bytes()[:1000])

    report = verify(index, deep=True)

    assert len(report.problems) == 1
    assert "dreams.h5" in report.problems[0]
    assert not report.fine


def test_labels_are_compared_with_the_index(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    write_index(index, read_index(index).manifest, tiny_dreams().labels.roll(1))

    assert ["labels differ" in problem for problem in verify(index).problems] == [True, True]


def test_a_shard_of_another_teacher_is_found(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    first = tmp_path / "dreams-00000-of-00002.h5"
    manifest = read_index(index).manifest
    info = write_shard(
        first, tiny_dreams().select(slice(0, 12)), {"teacher": "cd" * 32, "shard": 0}
    )
    changed = Manifest(num_images=24, shards=(info, manifest.shards[1]), teacher=manifest.teacher)
    write_index(index, changed, tiny_dreams().labels)

    (problem,) = verify(index).problems

    assert first.name in problem
    assert "its teacher is not that of the index" in problem
    # Else unpack, which writes its shards anew, would make it fine.
    with pytest.raises(DreamSetError, match="its teacher is not that of the index"):
        DreamSet.open(index).read(0, 24)
    with pytest.raises(DreamSetError, match="its teacher is not that of the index"):
        unpack(index, tmp_path / "out.h5")


def test_changed_pixels_are_found_by_the_teacher(
    answered: Path, tmp_path: Path, teacher: Teacher
) -> None:
    manifest = read_index(answered).manifest
    first = answered.parent / manifest.shards[0].name
    dreams = tiny_dreams().select(slice(0, 12))
    attributes = {"teacher": teacher.spec.fingerprint}
    info = write_shard(first, dreams, attributes)  # the logits of tiny_dreams are invented
    changed = Manifest(num_images=24, shards=(info, manifest.shards[1]), teacher=teacher.spec)
    write_index(answered, changed, tiny_dreams().labels)

    report = verify(answered, teacher=teacher)

    (problem,) = report.problems
    assert "logits differ from the teacher's" in problem
    assert report.largest_difference > 0.1


def test_another_teacher_is_a_problem(answered: Path, teacher: Teacher) -> None:
    other = Teacher(network=teacher.network, spec=tiny_spec(fingerprint="cd" * 32))

    (problem,) = verify(answered, teacher=other).problems
    assert "made with teacher" in problem


def test_another_teachers_answers_say_nothing_of_the_images(
    answered: Path, teacher: Teacher
) -> None:
    with torch.no_grad():
        teacher.network[1].bias.add_(1)
    other = Teacher(network=teacher.network, spec=tiny_spec(fingerprint="cd" * 32))

    report = verify(answered, teacher=other)

    assert len(report.problems) == 1
    assert report.agreement is None


def test_an_unfinished_set_is_called_so(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    index.unlink()

    (problem,) = verify(index).problems
    assert "an unfinished set; run the same dreamforge synth command again" in problem


def test_a_forged_embedded_teacher_is_found(answered: Path, teacher: Teacher) -> None:
    index = read_index(answered)
    with torch.no_grad():
        teacher.network[1].bias.add_(1)
    write_index(answered, index.manifest, index.labels, teacher=to_safetensors(teacher.network, {}))

    assert verify(answered).fine
    (problem,) = verify(answered, deep=True).problems
    assert "embedded teacher is not the one it names" in problem


def test_an_embedded_teacher_that_is_no_teacher_is_found(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path, teacher=b"rubbish")

    (problem,) = verify(index, deep=True).problems

    assert "dreams.h5 (embedded teacher): " in problem
