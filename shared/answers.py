"""What a network's numbers mean: a softmax over classes, or a sigmoid for each of its findings.

Of an X-ray several things may be true at once, and the commonest network of two classes has one
number: what the loss in training made of it, weights do not tell, but for that single number.
``sigmoid(z)`` is the softmax of ``(0, z)``. So a logit of 0 is put before a network's own, for
*none of them*: class 0 is that none is present, class k is finding k, and the first choice is the
finding that is likeliest, if it is likelier than not. Labels, dream sets, masks and tables then are
those of any classifier; only where several findings may be present at once losses and scores know
better (:func:`dreamforge.objective.class_loss`, :func:`recover.loss.distillation_loss`,
:mod:`recover.selection`).

Networks are also found that answer with the probabilities themselves. Their logarithms serve.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.spec import SIGMOID, SOFTMAX

_LEAST = 1e-30  # of a probability: below, gradients of its logarithm are no numbers
# What computed a tensor, as autograd names it, and whether it only changed the shape.
_PROBABILITIES = {"SoftmaxBackward0": SOFTMAX, "SigmoidBackward0": SIGMOID}
_SHAPES = ("Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "Alias", "Select", "Clone")


def settle_answers(network: nn.Module, meant: str, last_step: str | None = None) -> None:
    """Let ``network`` and its copies answer with the logits of a softmax.

    Of sigmoids that is ``(N, 1 + C)``: a 0 before the logits of the C findings. The tensors and
    their names stay what they were.

    Args:
        network: Changed in place. A single logit may have lost its dimension, as by ``squeeze``.
        meant: ``softmax`` or ``sigmoid``.
        last_step: Which of them the network computes itself, if any: probabilities become logits.
    """
    if last_step is not None:
        network.register_forward_hook(_of_softmax if last_step == SOFTMAX else _of_sigmoid)
    if meant == SIGMOID:
        network.register_forward_hook(_with_none)


def plain_answers(network: nn.Module) -> None:
    """Undo :func:`settle_answers`: the answers of the network alone."""
    for key, hook in list(network._forward_hooks.items()):
        if hook in _OURS:
            del network._forward_hooks[key]


def answer_alike(network: nn.Module, other: nn.Module) -> None:
    """Let ``other``, another form of ``network`` without what was put behind it, answer like it."""
    for hook in network._forward_hooks.values():
        if hook in _OURS and hook not in other._forward_hooks.values():
            other.register_forward_hook(hook)


def has_sigmoids(network: nn.Module) -> bool:
    """Tell whether the network, or what it is a copy of, was settled to answer for sigmoids."""
    return _with_none in network._forward_hooks.values()


def last_step_of(answer: Tensor) -> str | None:
    """Return ``softmax`` or ``sigmoid`` where that was the last thing computed; None elsewhere.

    Args:
        answer: With the history that autograd keeps.
    """
    node = answer.grad_fn
    while node is not None and node.name().startswith(_SHAPES):
        node = node.next_functions[0][0]
    return None if node is None else _PROBABILITIES.get(node.name())


def _with_none(network: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return F.pad(logits.reshape(len(inputs[0]), -1), (1, 0))


def _of_softmax(network: nn.Module, inputs: tuple[Tensor, ...], shares: Tensor) -> Tensor:
    return shares.float().clamp_min(_LEAST).log()


def _of_sigmoid(network: nn.Module, inputs: tuple[Tensor, ...], shares: Tensor) -> Tensor:
    most = 1 - torch.finfo(shares.dtype).eps  # what still differs from 1, in bfloat16, too
    return shares.float().clamp(_LEAST, most).logit()


_OURS = (_with_none, _of_softmax, _of_sigmoid)
