"""What a student is taught by: the teacher's softened answers (Hinton et al. 2015)."""

import torch.nn.functional as F
from torch import Tensor

_LEAST_SPREAD = 1e-7  # of the logits of an image, as in the code of Sun et al. 2024


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    *,
    standardize: bool = False,
    sigmoids: bool = False,
) -> Tensor:
    """Return the KL divergence of the student's softened answer from the teacher's.

    ``KL(softmax(t / T) || softmax(s / T)) T^2``, averaged over the batch; the factor keeps the
    gradient's size as T grows (Hinton et al. 2015, arXiv:1503.02531, section 2.1). Of sigmoids the
    divergences of all findings are added: that of their joint answer, if they are independent.

    Args:
        logits: The student's, float ``(N, K)``.
        teacher_logits: Float ``(N, K)``.
        temperature: Positive.
        standardize: Whether both are standardized first, see :func:`standardized`.
        sigmoids: Whether the first logit is the 0 of none, and the others are findings.

    Returns:
        A float32 scalar, at least 0; 0 when the softened answers are equal.
    """
    logits, teacher_logits = logits.float(), teacher_logits.float()
    if standardize:
        logits, teacher_logits = standardized(logits), standardized(teacher_logits)
    if sigmoids:
        return bernoulli_divergence(logits / temperature, teacher_logits / temperature).mean() * (
            temperature**2
        )
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def bernoulli_divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the KL divergence of the student's findings from the teacher's, in nats, per image.

    Args:
        logits: Float ``(N, 1 + C)``: 0, and the student's log odds of C findings.
        teacher_logits: Likewise.

    Returns:
        float32 ``(N,)``, at least 0: the sum over the findings.
    """
    student, teacher = logits[:, 1:].float(), teacher_logits[:, 1:].float()
    present = F.logsigmoid(teacher) - F.logsigmoid(student)
    absent = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    share = teacher.sigmoid()
    return (share * present + (1 - share) * absent).sum(1)


def standardized(logits: Tensor) -> Tensor:
    """Return each image's logits with mean 0 and standard deviation 1 over the classes.

    The student then learns how the teacher's logits relate to each other, not how large they are:
    Sun et al. 2024 (arXiv:2403.01427). As in their code, the variance divides by K - 1.

    Args:
        logits: Float32 ``(N, K)``, K at least 2.
    """
    centered = logits - logits.mean(dim=1, keepdim=True)
    return centered / (logits.std(dim=1, keepdim=True) + _LEAST_SPREAD)
