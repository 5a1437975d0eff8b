"""Another implementation of a network calls its tensors otherwise, but defines them in its order.

Names then say nothing, and the sequence of roles and shapes says much: a checkpoint of
EfficientNet or of a CIFAR ResNet from one repository fits the other's, tensor by tensor.
What it cannot tell is what has no tensors: padding, activations, the order of additions.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from shared.statedict import with_plain_names

_COUNTER = "num_batches_tracked"


def renamed_by_position(
    skeleton: nn.Module, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Return the tensors under the network's names, the first under the first name, and so on.

    Args:
        skeleton: The network; only names and order are read.
        tensors: A state dict in its file's order. Counters of BatchNorm may be missing.

    Returns:
        None where numbers differ, or a tensor has another role than the one in its place: what
        stands behind the last dot (weight, bias, running_mean, running_var). Shapes are not
        compared.
    """
    ours = skeleton.state_dict()
    if roles(ours) != roles(tensors):
        return None
    expected = [name for name in with_plain_names(ours) if _role(name) != _COUNTER]
    found = [tensor for name, tensor in tensors.items() if _role(name) != _COUNTER]
    return dict(zip(expected, found, strict=True))


def roles(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what stands behind the last dot of each name, but for counters of BatchNorm."""
    return [role for role in map(_role, tensors) if role != _COUNTER]


def _role(name: str) -> str:
    return name.rpartition(".")[2]
