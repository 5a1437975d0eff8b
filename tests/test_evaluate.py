import torch
from dreamset_fixtures import tiny_spec
from torch import Tensor, nn

from recover.evaluate import Exam, Judge
from recover.report import ClassRecord


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
