"""How good a network is: on real images where there are some, and always beside the teacher."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recover.by_class import class_records, finding_records
from recover.importance import prunable_weights
from recover.masks import num_nonzero
from recover.report import ClassRecord, StageRecord
from recover.selection import likeness, varied
from shared.metrics import agreement, known_accuracy, mean_auroc, predict, require_finite
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.spec import SIGMOID, TeacherSpec
from shared.teacher import Teacher

CHUNK = 4096  # images between two reports of progress


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Exam:
    """Images to judge networks by.

    Attributes:
        images: uint8 ``(N, C, H, W)``, at least one.
        labels: As in :class:`shared.evaldata.EvalData`, or None where the truth is not known.
        teacher_logits: ``(N, K)``, or None without a teacher.
    """

    images: Tensor
    labels: Tensor | None = None
    teacher_logits: Tensor | None = None


def answers(
    network: nn.Module,
    images: Tensor,
    spec: TeacherSpec,
    *,
    name: str,
    progress: ProgressCallback = ignore_progress,
) -> Tensor:
    """Return float32 ``(N, K)`` logits on the CPU, in full precision.

    Args:
        network: On any device.
        images: uint8 ``(N, C, H, W)``, N at least 1.
        spec: Says how to normalise.
        name: What progress calls the network.
        progress: Told of the images.
    """
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        parts.append(predict(network, part, spec, device).cpu())
        done = start + len(part)
        progress(Progress(stage=f"judge {name}", done=done, total=len(images), unit="images"))
    return torch.cat(parts)


def teacher_answers(
    teacher: Teacher, images: Tensor, progress: ProgressCallback = ignore_progress
) -> Tensor:
    """Return the teacher's :func:`answers`, which others are compared with.

    Raises:
        CheckpointError: If they are not finite.
    """
    logits = answers(teacher.network, images, teacher.spec, name="teacher", progress=progress)
    return require_finite(logits, f"the teacher ({teacher.spec.architecture})")


def exam_beside(
    teacher: Teacher,
    images: Tensor,
    labels: Tensor | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Exam | None:
    """Return an exam with the teacher's answers; None if there are no images.

    Raises:
        CheckpointError: If the answers are not finite.
    """
    if len(images) == 0:
        return None
    logits = teacher_answers(teacher, images, progress)
    return Exam(images=images, labels=labels, teacher_logits=logits)


def exam_on_variants(
    teacher: Teacher, images: Tensor, progress: ProgressCallback = ignore_progress
) -> Exam | None:
    """Return an exam on variants of the images, see :mod:`recover.selection`; None without any."""
    return exam_beside(teacher, varied(images), None, progress)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judge:
    """Judges networks on the same images.

    Attributes:
        spec: Says how to normalise.
        dreams: Held-out dreams, or None.
        real: Real images, or None.
        progress: Told of long evaluations.
        varied: Variants of the held-out dreams, or None.
    """

    spec: TeacherSpec
    dreams: Exam | None
    real: Exam | None
    progress: ProgressCallback = ignore_progress
    varied: Exam | None = None

    def judge(self, network: nn.Module, name: str) -> StageRecord:
        """Return what ``network`` achieves; ``name`` is what progress calls it.

        Agreement is measured on the real images where there are some, on the held-out dreams
        otherwise, and is None where the teacher's answers are not known.
        """
        return self.judge_by_class(network, name)[0]

    def judge_by_class(
        self, network: nn.Module, name: str
    ) -> tuple[StageRecord, tuple[ClassRecord, ...]]:
        """Return the same, and class by class what it is made of, from one look at the images."""
        logits_on_real = self._answers(network, self.real, name)
        logits_on_dreams = self._answers(network, self.dreams, name)
        right, on_real = _marks(self.real, logits_on_real)
        on_dreams = _marks(self.dreams, logits_on_dreams)[1]
        num_left = num_nonzero(network)
        num_weights = sum(weight.numel() for weight in prunable_weights(network).values())
        stage = StageRecord(
            accuracy=right,
            agreement=on_dreams if self.real is None else on_real,
            agreement_on_dreams=on_dreams,
            auroc=_area(self.real, logits_on_real),
            sparsity=1 - num_left / num_weights if num_weights else 0.0,
            num_nonzero=num_left,
            **self._likeness(network, name),
        )
        if self.real is not None:
            return stage, self._classes(self.real, logits_on_real)
        return stage, self._classes(self.dreams, logits_on_dreams)

    def _classes(self, exam: Exam | None, logits: Tensor | None) -> tuple[ClassRecord, ...]:
        if exam is None or logits is None or exam.teacher_logits is None:
            return ()
        of = finding_records if self.spec.answers == SIGMOID else class_records
        return of(logits, exam.teacher_logits, exam.labels)

    def agreement_on_dreams(self, network: nn.Module, name: str) -> float | None:
        """Return the agreement with the teacher on the held-out dreams; None without any."""
        return _marks(self.dreams, self._answers(network, self.dreams, name))[1]

    def _likeness(self, network: nn.Module, name: str) -> dict[str, float | None]:
        """Return the fields of a StageRecord that are measured on varied dreams, if any are."""
        logits = self._answers(network, self.varied, name)
        if self.varied is None or logits is None or self.varied.teacher_logits is None:
            return {}
        num_dreams = len(self.dreams.images) if self.dreams else len(logits)
        found = likeness(
            logits,
            self.varied.teacher_logits,
            num_dreams,
            sigmoids=self.spec.answers == SIGMOID,
        )
        return dataclasses.asdict(found)

    def _answers(self, network: nn.Module, exam: Exam | None, name: str) -> Tensor | None:
        if exam is None:
            return None
        return answers(network, exam.images, self.spec, name=name, progress=self.progress)


def _marks(exam: Exam | None, logits: Tensor | None) -> tuple[float | None, float | None]:
    """Return accuracy and agreement, each None where it cannot be known."""
    if exam is None or logits is None:
        return None, None
    right = None if exam.labels is None else known_accuracy(logits, exam.labels)
    if exam.teacher_logits is None:
        return right, None
    return right, agreement(logits, exam.teacher_logits)


def _area(exam: Exam | None, logits: Tensor | None) -> float | None:
    if exam is None or exam.labels is None or logits is None:
        return None
    return mean_auroc(logits, exam.labels)
