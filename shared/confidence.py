"""How sure a network is of a label, and whether it gives it: of a softmax, and of sigmoids.

Of sigmoids a label is given for one finding, whatever else the image shows. So others do not
compete with it, as the classes of a softmax do: finding k is as sure as ``sigmoid(z_k)``. None is
as sure as it is that the likeliest finding is not there. Of one finding both are the softmax.
"""

import torch
from torch import Tensor

from shared.spec import SIGMOID


def said(logits: Tensor) -> Tensor:
    """Return what sigmoids say: bool ``(N, 1 + C)``, no finding at all, and each of them.

    Args:
        logits: ``(N, 1 + C)``, the first of them 0.
    """
    found = logits[:, 1:] > 0
    return torch.cat([~found.any(1, keepdim=True), found], dim=1)


def recognised(logits: Tensor, labels: Tensor, answers: str) -> Tensor:
    """Return whether the network gives each row's label: bool ``(N,)``.

    The first choice of a softmax; of sigmoids a finding that is likelier than not, and none where
    no finding is.

    Args:
        logits: ``(N, K)``; of sigmoids ``(N, 1 + C)``, the first of them 0.
        labels: int64 ``(N,)``.
        answers: ``softmax`` or ``sigmoid``.
    """
    if answers == SIGMOID:
        return said(logits).gather(1, labels[:, None])[:, 0]
    return logits.float().argmax(1) == labels


def confidences(logits: Tensor, labels: Tensor, answers: str) -> Tensor:
    """Return the probability of each row's label: float32 ``(N,)``.

    Of none it is that of the likeliest finding not to be there: so a label is above 1/2 where it is
    :func:`recognised`, none like any finding, and the surest label is the first choice. (The
    product over the findings would be near 0 for many that are each unlikely.)

    Args:
        logits: As for :func:`recognised`.
        labels: Likewise.
        answers: Likewise.
    """
    logits = logits.float()
    if answers != SIGMOID:
        return logits.softmax(1).gather(1, labels[:, None])[:, 0]
    for_none = -logits[:, 1:].amax(1, keepdim=True)
    evidence = torch.cat([for_none, logits[:, 1:]], dim=1)
    return evidence.gather(1, labels[:, None])[:, 0].sigmoid()


def first_confidences(logits: Tensor, answers: str) -> Tensor:
    """Return the probability of each row's first choice: float32 ``(N,)``.

    Args:
        logits: As for :func:`recognised`.
        answers: Likewise.
    """
    return confidences(logits, logits.float().argmax(1), answers)
