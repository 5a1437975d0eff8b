"""Judging a saved student, with or without its teacher at hand."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recover.evaluate import Exam, Judge, exam_on_variants, teacher_answers
from recover.export import Student
from recover.holdout import MOST_HELD_OUT, split_rows
from recover.importance import prunable_weights
from recover.report import StageRecord
from shared.device import resolve_device
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.evaldata import EvalData
from shared.progress import ProgressCallback, ignore_progress
from shared.seeding import generator
from shared.spec import TeacherSpec
from shared.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an examination found.

    Attributes:
        stage: The figures, as in a report.
        num_weights: Prunable weights.
        num_real: Real images used.
        num_dreams: Dreams used.
        warnings: One sentence each.
    """

    stage: StageRecord
    num_weights: int
    num_real: int
    num_dreams: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as one flat record of JSON types."""
        record = dataclasses.asdict(self)
        return {**record.pop("stage"), **record}


def examine_student(
    student: Student,
    teacher: Teacher | None,
    dreams: DreamSet | None,
    real: EvalData | None,
    device_name: str = "auto",
    progress: ProgressCallback = ignore_progress,
) -> Verdict:
    """Return how good a saved student is.

    Args:
        student: As loaded.
        teacher: For the agreement; None takes the answers that are stored beside the dreams, and
            measures neither agreement on real images nor the score on varied dreams.
        dreams: Where they are the set that the student was taught on, only the rows that it was
            not taught on are used.
        real: Labelled images.
        device_name: As for ``--device``.
        progress: Told of the images.

    Raises:
        CheckpointError: If the teacher's answers are not finite.
        IncompatibleError: If images or classes of the inputs do not fit the student.
    """
    device = resolve_device(device_name)
    classifier = student.classifier.to(device)
    teacher = teacher.to(device) if teacher else None
    warnings: list[str] = []
    if teacher:
        require_same(classifier.spec, teacher.spec, "teacher")
        warnings += _check_teacher(student, teacher.spec, "this teacher")

    def exam(images: Tensor, labels: Tensor | None, stored: Tensor | None) -> Exam:
        logits = stored
        if teacher:
            logits = teacher_answers(teacher, images, progress)
        return Exam(images=images, labels=labels, teacher_logits=logits)

    on_dreams, on_variants = None, None
    if dreams:
        require_same(classifier.spec, dreams.manifest.teacher, "dream set")
        if not teacher:
            warnings += _check_teacher(student, dreams.manifest.teacher, "the dreams' teacher")
        rows, remarks = _rows_to_judge_by(student, dreams)
        warnings += remarks
        chosen = dreams.select(rows)
        on_dreams = exam(chosen.images, None, chosen.logits)
        on_variants = exam_on_variants(teacher, chosen.images, progress) if teacher else None
    on_real = exam(real.images, real.labels, None) if real else None
    warnings += real.remarks if real else ()
    judge = Judge(
        spec=classifier.spec,
        dreams=on_dreams,
        real=on_real,
        progress=progress,
        varied=on_variants,
    )
    return Verdict(
        stage=judge.judge(classifier.network, "student"),
        num_weights=sum(w.numel() for w in prunable_weights(classifier.network).values()),
        num_real=len(on_real.images) if on_real else 0,
        num_dreams=len(on_dreams.images) if on_dreams else 0,
        warnings=tuple(warnings),
    )


def _rows_to_judge_by(student: Student, dreams: DreamSet) -> tuple[Tensor, list[str]]:
    """Return held-out rows if the student was taught on this set, else any rows of it."""
    config = student.facts.get("config", {})
    if student.facts.get("dreams_digest") == dreams.manifest.digest():
        rows = split_rows(dreams.labels, config.get("holdout", 0), config.get("seed", 0)).held_out
        if len(rows):
            return rows, []
        remark = ["the student was taught on all of these dreams: agreement on them flatters it"]
    else:
        remark = []
    shuffled = torch.randperm(dreams.num_images, generator=generator(0, "examine"))
    return shuffled[:MOST_HELD_OUT].sort().values, remark


def require_same(student: TeacherSpec, other: TeacherSpec, what: str) -> None:
    """Check that ``what`` has the student's images and classes.

    Raises:
        IncompatibleError: If not.
    """
    found, expected = (
        f"images of {'x'.join(map(str, spec.image_shape))} and {spec.num_classes} classes"
        for spec in (other, student)
    )
    if found != expected:
        raise IncompatibleError(f"{what}: {found}, the student expects {expected}")


def _check_teacher(student: Student, teacher: TeacherSpec, what: str) -> list[str]:
    expected = str(student.facts.get("teacher_fingerprint"))
    if teacher.fingerprint == expected:
        return []
    return [
        f"{what} has fingerprint {teacher.fingerprint[:12]}, "
        f"the student was taught by {expected[:12]}"
    ]
