"""What a network's numbers mean: a softmax over classes, or a sigmoid for each of its findings.

Of an X-ray several things may be true at once, and the commonest network of two classes has one
number: what the loss in training made of it, weights do not tell, but for that single number.
``sigmoid(z)`` is the softmax of ``(0, z)``. So a logit of 0 is put before a network's own, for
*none of them*: class 0 is that none is present, class k is finding k, and the first choice is the
finding that is likeliest, if it is likelier than not. Labels, dream sets, masks and tables then are
those of any classifier; only where several findings may be present at once losses and scores know
better (:func:`dreamforge.objective.finding_loss`, :func:`recover.loss.distillation_loss`,
:mod:`recover.selection`).

Networks are also found that compute the probabilities themselves. A layer that does so is passed
over; of a function in somebody's ``forward`` the logarithms of what it returns serve, as far as
they go: where it is sure they are cut, and have no gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.layout import spare_images, spares_images
from shared.spec import SIGMOID, SOFTMAX
from shared.tensors import tensors_in

_LEAST = 1e-30  # of a probability: below, gradients of its logarithm are no numbers
# What computed a tensor, as autograd names it, and whether it only changed the shape.
_PROBABILITIES = {"SoftmaxBackward0": SOFTMAX, "SigmoidBackward0": SIGMOID}
_SHAPES = ("Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "Alias", "Select", "Clone")


@dataclass(frozen=True, slots=True, eq=False)
class LastStep:
    """What a network computes last, where that makes probabilities.

    Attributes:
        kind: ``softmax`` or ``sigmoid``.
        layer: The module that does it, or None for a function.
    """

    kind: str
    layer: nn.Module | None = None


def settle_answers(
    network: nn.Module, meant: str, last_step: LastStep | None = None, *, in_rows: bool = True
) -> None:
    """Let ``network`` and its copies answer with the logits of a softmax, ``(N, K)``.

    Of sigmoids that is ``(N, 1 + C)``: a 0 before the logits of the C findings. The tensors and
    their names stay what they were.

    Args:
        network: Changed in place.
        meant: ``softmax`` or ``sigmoid``.
        last_step: Of the network.
        in_rows: Whether it answers with a row for each image: a single logit may have lost its
            dimension, as by ``squeeze``, and logits may have more, as behind a convolution.
    """
    if last_step is not None and last_step.layer is not None:
        last_step.layer.register_forward_hook(_passed_over, with_kwargs=True)
    elif last_step is not None:
        is_softmax = last_step.kind == SOFTMAX
        network.register_forward_hook(_of_softmax if is_softmax else _of_sigmoid)
    if meant == SIGMOID:
        network.register_forward_hook(_with_none)
    elif not in_rows:
        network.register_forward_hook(_as_rows)


def plain_answers(network: nn.Module) -> None:
    """Undo :func:`settle_answers`: the answers of the network alone."""
    for module in network.modules():
        for key, hook in list(module._forward_hooks.items()):
            if hook in _OURS:
                del module._forward_hooks[key]


def answer_alike(network: nn.Module, other: nn.Module) -> None:
    """Let ``other``, another form of ``network`` without its hooks, answer like it.

    It leaves its images alone where ``network`` does (:func:`shared.layout.spare_images`).
    """
    if spares_images(network):
        spare_images(other)
    for hook in network._forward_hooks.values():
        if hook in _OURS and hook not in other._forward_hooks.values():
            other.register_forward_hook(hook)


def answer_as_settled(network: nn.Module, other: nn.Module) -> None:
    """Let ``other``, which gives the answers of ``network`` alone, answer like it.

    Those are what :func:`plain_answers` leaves: probabilities, say, where a layer makes them.
    """
    for module in network.modules():
        if _passed_over in module._forward_hooks.values():
            is_softmax = isinstance(module, nn.Softmax)
            other.register_forward_hook(_of_softmax if is_softmax else _of_sigmoid)
    answer_alike(network, other)


def has_sigmoids(network: nn.Module) -> bool:
    """Tell whether the network, one inside it, or their original was settled for sigmoids."""
    return any(_with_none in module._forward_hooks.values() for module in network.modules())


def find_last_step(network: nn.Module, images: Tensor) -> LastStep | None:
    """Return what makes probabilities of ``network``'s logits at its end; None where nothing does.

    Args:
        network: In evaluation mode.
        images: That it takes; they need no gradient.
    """
    outputs: dict[nn.Module, list[Tensor]] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.setdefault(module, []).append(output)

    layers = [each for each in network.modules() if isinstance(each, nn.Sigmoid | nn.Softmax)]
    handles = [layer.register_forward_hook(see) for layer in layers]
    try:
        with torch.enable_grad():
            # No leaf: a first step in place is not allowed on those.
            answer: Tensor = network(images.detach().requires_grad_() * 1)
    finally:
        for handle in handles:
            handle.remove()
    node = answer.grad_fn
    while node is not None and node.name().startswith(_SHAPES):
        node = node.next_functions[0][0]
    kind = None if node is None else _PROBABILITIES.get(node.name())
    if kind is None:
        return None
    for layer, found in outputs.items():
        if len(found) == 1 and found[0].data_ptr() == answer.data_ptr():
            return LastStep(kind, layer)
    return LastStep(kind)


def _with_none(network: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return F.pad(logits.reshape(len(inputs[0]), -1), (1, 0))


def _as_rows(network: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return logits.reshape(len(inputs[0]), -1)


def _passed_over(
    layer: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor], output: Tensor
) -> Tensor:
    return next(tensors_in((inputs, named)))


def _of_softmax(network: nn.Module, inputs: tuple[Tensor, ...], shares: Tensor) -> Tensor:
    return shares.float().clamp_min(_LEAST).log()


def _of_sigmoid(network: nn.Module, inputs: tuple[Tensor, ...], shares: Tensor) -> Tensor:
    most = 1 - torch.finfo(shares.dtype).eps  # what still differs from 1, in bfloat16, too
    return shares.float().clamp(_LEAST, most).logit()


_OURS = (_with_none, _as_rows, _passed_over, _of_softmax, _of_sigmoid)
