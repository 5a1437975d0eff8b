"""The student beside the teacher, class by class: which of them pay."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recover.report import ClassRecord
from shared.confidence import said


def class_records(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor | None
) -> tuple[ClassRecord, ...]:
    """Return one record per class, of networks that put every image into one.

    Args:
        logits: The student's ``(N, K)``.
        teacher_logits: Likewise.
        labels: int64 ``(N,)``, or None where the truth is not known.
    """
    num_classes = logits.shape[1]
    student, teacher = logits.argmax(1), teacher_logits.argmax(1)
    num_images, agreed = [0] * num_classes, [0] * num_classes
    confused: list[tuple[int, int | None]] = [(0, None)] * num_classes
    # The confusion matrix, without the memory for its zeros.
    pairs, counts = (teacher * num_classes + student).unique(return_counts=True)
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        label, answer = divmod(pair, num_classes)
        num_images[label] += count
        if answer == label:
            agreed[label] = count
        elif count > confused[label][0]:
            confused[label] = (count, answer)
    on_truth = _by_true_class(labels, teacher, student, num_classes)
    return tuple(
        ClassRecord(
            label=label,
            num_images=num_images[label],
            agreement=agreed[label] / num_images[label] if num_images[label] else None,
            confused_with=confused[label][1],
            num_confused=confused[label][0],
            **on_truth[label],
        )
        for label in range(num_classes)
    )


def finding_records(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor | None
) -> tuple[ClassRecord, ...]:
    """Return one record for none and one per finding, of which an image may show several.

    A finding is there where its logit is above 0. It is taken for what the student gives and the
    teacher does not, on the images where the student alone misses it: none, or other findings.

    Args:
        logits: The student's ``(N, 1 + C)``, the first of them 0.
        teacher_logits: Likewise.
        labels: int64 ``(N,)``; or int8 ``(N, C)``: 1 present, 0 absent, -1 not known; or None.
    """
    student, teacher = said(logits), said(teacher_logits)
    truth = None if labels is None else _true(labels, logits.shape[1])
    return tuple(
        _finding_record(label, teacher, student, truth) for label in range(logits.shape[1])
    )


def _finding_record(
    label: int, teacher: Tensor, student: Tensor, truth: Tensor | None
) -> ClassRecord:
    given = teacher[:, label]
    instead = (student & ~teacher)[given & ~student[:, label]].sum(0)
    num_confused = int(instead.max())
    on_truth: dict[str, Any] = {}
    if truth is not None:
        rows = truth[:, label]
        on_truth = {
            "num_labelled": int(rows.sum()),
            "teacher_accuracy": _share(given[rows]),
            "accuracy": _share(student[rows, label]),
        }
    return ClassRecord(
        label=label,
        num_images=int(given.sum()),
        agreement=_share(student[given, label]),
        confused_with=int(instead.argmax()) if num_confused else None,
        num_confused=num_confused,
        **on_truth,
    )


def _true(labels: Tensor, num_classes: int) -> Tensor:
    """Return the same of the truth; what is not known is not there, and no image without any."""
    if labels.ndim == 1:
        return F.one_hot(labels, num_classes).bool()
    return torch.cat([(labels == 0).all(1, keepdim=True), labels == 1], dim=1)


def _share(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def _by_true_class(
    labels: Tensor | None, teacher: Tensor, student: Tensor, num_classes: int
) -> list[dict[str, Any]]:
    """Return size and accuracies by true class: the rest of a ClassRecord."""
    if labels is None:
        return [{} for _ in range(num_classes)]
    totals = labels.bincount(minlength=num_classes).tolist()
    rights = {
        name: labels[answer == labels].bincount(minlength=num_classes).tolist()
        for name, answer in (("teacher_accuracy", teacher), ("accuracy", student))
    }
    return [
        {"num_labelled": total}
        | {name: right[label] / total if total else None for name, right in rights.items()}
        for label, total in enumerate(totals)
    ]
