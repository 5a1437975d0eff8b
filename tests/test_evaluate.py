from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_spec, write_dream_set
from torch import Tensor, nn

from dreamforge.verify import verify
from recover.evaluate import Exam, Judge, exam_beside, exam_on_variants
from recover.examine import examine_student
from recover.export import Student
from recover.report import ClassRecord
from shared.dreamset import DreamSet
from shared.errors import CheckpointError
from shared.teacher import Teacher, fingerprint


class Says(nn.Module):
    """Answers image i with class answers[i], which is written into its first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)  # something to prune, and a device

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs[:, 0, 0, 0] * 0.25 + 0.5  # undoes the normalisation
        return nn.functional.one_hot((values * 255).round().long(), 4).float()


def exam(student: list[int], teacher: list[int], labels: list[int] | None) -> Exam:
    images = torch.zeros(len(student), 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(student, dtype=torch.uint8)
    return Exam(
        images=images,
        labels=None if labels is None else torch.tensor(labels),
        teacher_logits=nn.functional.one_hot(torch.tensor(teacher), 4).float(),
    )


def test_what_became_of_every_class() -> None:
    real = exam([0, 1, 1, 2, 1, 2], teacher=[0, 0, 0, 0, 1, 2], labels=[0, 0, 1, 2, 1, 1])
    judge = Judge(spec=tiny_spec(), dreams=None, real=real)

    stage, classes = judge.judge_by_class(Says(), "student")

    assert stage.agreement == 0.5
    assert classes == (
        ClassRecord(
            label=0,
            num_images=4,
            agreement=0.25,
            confused_with=1,
            num_confused=2,
            num_labelled=2,
            teacher_accuracy=1.0,
            accuracy=0.5,
        ),
        ClassRecord(
            label=1,
            num_images=1,
            agreement=1.0,
            confused_with=None,
            num_confused=0,
            num_labelled=3,
            teacher_accuracy=1 / 3,
            accuracy=2 / 3,
        ),
        ClassRecord(
            label=2,
            num_images=1,
            agreement=1.0,
            confused_with=None,
            num_confused=0,
            num_labelled=1,
            teacher_accuracy=0.0,
            accuracy=1.0,
        ),
        ClassRecord(
            label=3,
            num_images=0,
            agreement=None,
            confused_with=None,
            num_confused=0,
            num_labelled=0,
            teacher_accuracy=None,
            accuracy=None,
        ),
    )


def test_without_real_images_classes_are_measured_on_dreams() -> None:
    judge = Judge(spec=tiny_spec(), dreams=exam([0, 1], [0, 0], None), real=None)

    stage, classes = judge.judge_by_class(Says(), "student")

    assert stage == judge.judge(Says(), "student")
    assert classes[0].agreement == stage.agreement == 0.5
    assert classes[0].num_labelled is classes[0].accuracy is None


def test_without_images_or_a_teacher_no_class_is_measured() -> None:
    alone = exam([0, 1], [0, 0], [0, 1])
    no_teacher = Exam(images=alone.images, labels=alone.labels)

    for real in (None, no_teacher):
        judge = Judge(spec=tiny_spec(), dreams=None, real=real)
        assert judge.judge_by_class(Says(), "student")[1] == ()


def overflowing() -> Teacher:
    """A teacher of finite weights whose answers are infinite, but for black images."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    network[1].weight.data.fill_(3e38)
    return Teacher(network=network, spec=tiny_spec(fingerprint=fingerprint(network)))


def test_nobody_is_compared_with_a_teacher_whose_answers_are_no_numbers(tmp_path: Path) -> None:
    teacher, images = overflowing(), torch.full((3, 3, 8, 8), 255, dtype=torch.uint8)
    dreams = DreamSet.open(write_dream_set(tmp_path, spec=teacher.spec))
    student = Student(classifier=overflowing(), facts={})

    for compare in (
        lambda: exam_beside(teacher, images),
        lambda: exam_on_variants(teacher, images),
        lambda: examine_student(student, teacher, dreams, None, "cpu"),
    ):
        with pytest.raises(CheckpointError, match=r"teacher \(tiny\): answers with NaN or inf"):
            compare()
    problems = verify(dreams.path, teacher=teacher).problems
    assert [problem.split(": ")[1:3] for problem in problems] == [
        [
            "the teacher",
            "answers with NaN or infinity, expected finite logits; are mean, std and "
            "weights right?",
        ]
    ] * 2
