"""How good a network is: on real images where there are some, and always beside the teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recover.importance import prunable_weights
from recover.masks import num_nonzero
from recover.report import StageRecord
from shared.metrics import accuracy, agreement, predict
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.spec import TeacherSpec
from shared.teacher import Teacher

CHUNK = 4096  # images between two reports of progress


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Exam:
    """Images to judge networks by.

    Attributes:
        images: uint8 ``(N, C, H, W)``, at least one.
        labels: int64 ``(N,)``, or None where the truth is not known.
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


def exam_beside(
    teacher: Teacher,
    images: Tensor,
    labels: Tensor | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Exam | None:
    """Return an exam with the teacher's answers; None if there are no images."""
    if len(images) == 0:
        return None
    logits = answers(teacher.network, images, teacher.spec, name="teacher", progress=progress)
    return Exam(images=images, labels=labels, teacher_logits=logits)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judge:
    """Judges networks on the same images.

    Attributes:
        spec: Says how to normalise.
        dreams: Held-out dreams, or None.
        real: Real images, or None.
        progress: Told of long evaluations.
    """

    spec: TeacherSpec
    dreams: Exam | None
    real: Exam | None
    progress: ProgressCallback = ignore_progress

    def judge(self, network: nn.Module, name: str) -> StageRecord:
        """Return what ``network`` achieves; ``name`` is what progress calls it.

        Agreement is measured on the real images where there are some, on the held-out dreams
        otherwise, and is None where the teacher's answers are not known.
        """
        right, on_real = self._marks(network, self.real, name)
        on_dreams = self.agreement_on_dreams(network, name)
        num_left = num_nonzero(network)
        num_weights = sum(weight.numel() for weight in prunable_weights(network).values())
        return StageRecord(
            accuracy=right,
            agreement=on_dreams if self.real is None else on_real,
            agreement_on_dreams=on_dreams,
            sparsity=1 - num_left / num_weights,
            num_nonzero=num_left,
        )

    def agreement_on_dreams(self, network: nn.Module, name: str) -> float | None:
        """Return the agreement with the teacher on the held-out dreams; None without any."""
        return self._marks(network, self.dreams, name)[1]

    def _marks(
        self, network: nn.Module, exam: Exam | None, name: str
    ) -> tuple[float | None, float | None]:
        """Return accuracy and agreement, each None where it cannot be known."""
        if exam is None:
            return None, None
        logits = answers(network, exam.images, self.spec, name=name, progress=self.progress)
        right = None if exam.labels is None else accuracy(logits, exam.labels)
        if exam.teacher_logits is None:
            return right, None
        return right, agreement(logits, exam.teacher_logits)
