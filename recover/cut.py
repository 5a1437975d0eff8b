"""Tensors of a network cut to the channels that stay, and whether it still runs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recover.coupling import Axis
from recover.worth import Positions
from shared.architectures import resize
from shared.errors import IncompatibleError
from shared.spec import TeacherSpec


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What is left of a network's tensors.

    Attributes:
        left: By tensor and dimension, positions that stay, ascending.
    """

    left: Mapping[Axis, Positions]

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """Return what is left of ``tensor``, of the shape of the parameter or buffer ``name``."""
        for dim in range(min(tensor.dim(), 2)):
            if (name, dim) in self.left:
                places = torch.from_numpy(self.left[name, dim]).to(tensor.device)
                tensor = tensor.index_select(dim, places)
        return tensor

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Cut the network's own tensors."""
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        resize(network, {name: self.of(name, tensor) for name, tensor in tensors.items()})


def require_flow(network: nn.Module, spec: TeacherSpec) -> None:
    """Send images through a network that was cut.

    Raises:
        IncompatibleError: If its forward counts on the channels that it had.
    """
    images = torch.zeros(2, *spec.image_shape, device=next(network.parameters()).device)
    try:
        with torch.no_grad():
            network.eval()(images)
    except Exception as error:  # whatever somebody's forward may raise
        reason = " ".join(str(error).split())[:120]
        raise IncompatibleError(
            f"--channels: {spec.architecture} does not run with fewer of them ({reason}): its "
            "forward counts on the numbers it was built with; name the tensors of that part with "
            "--keep"
        ) from error
