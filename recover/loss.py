"""What a student is taught by: the teacher's softened answers (Hinton et al. 2015)."""

import torch.nn.functional as F
from torch import Tensor

_LEAST_SPREAD = 1e-7  # of the logits of an image, as in the code of Sun et al. 2024


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, temperature: float, *, standardize: bool = False
) -> Tensor:
    """Return the KL divergence of the student's softened answer from the teacher's.

    ``KL(softmax(t / T) || softmax(s / T)) T^2``, averaged over the batch; the factor keeps the
    gradient's size as T grows (Hinton et al. 2015, arXiv:1503.02531, section 2.1).

    Args:
        logits: The student's, float ``(N, K)``.
        teacher_logits: Float ``(N, K)``.
        temperature: Positive.
        standardize: Whether both are standardized first, see :func:`standardized`.

    Returns:
        A float32 scalar, at least 0; 0 when the softened answers are equal.
    """
    logits, teacher_logits = logits.float(), teacher_logits.float()
    if standardize:
        logits, teacher_logits = standardized(logits), standardized(teacher_logits)
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def standardized(logits: Tensor) -> Tensor:
    """Return each image's logits with mean 0 and standard deviation 1 over the classes.

    The student then learns how the teacher's logits relate to each other, not how large they are:
    Sun et al. 2024 (arXiv:2403.01427). As in their code, the variance divides by K - 1.

    Args:
        logits: Float32 ``(N, K)``, K at least 2.
    """
    centered = logits - logits.mean(dim=1, keepdim=True)
    return centered / (logits.std(dim=1, keepdim=True) + _LEAST_SPREAD)
