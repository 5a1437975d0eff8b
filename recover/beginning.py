"""What a run begins with: a copy of its origin, pruned in one shot, or to be pruned on the way."""

import copy

from torch import nn

from recover.allocation import choose_masks
from recover.channels import slimming_of
from recover.config import RecoverConfig
from recover.cut import require_flow
from recover.importance import prunable_weights
from recover.masks import Masks, dense_masks
from recover.mending import mend
from recover.preparation import Setup
from recover.schedule import starts_pruned
from recover.slim import Slimming
from recover.warm_start import masks_of_zeros
from shared.errors import IncompatibleError
from shared.teacher import Teacher


def pruned_copy(
    origin: Teacher, config: RecoverConfig, slimming: Slimming | None = None
) -> tuple[nn.Module, Masks]:
    """Return a copy of the network that the student starts as, pruned in one shot, and its masks.

    Args:
        origin: That network.
        config: Says how.
        slimming: Of the channels that it has, where it lacks some of its teacher's.

    Raises:
        IncompatibleError: If the network has nothing to prune.
        ConfigError: If the config's layers to keep are not there, or too large for its sparsity.
    """
    network = copy.deepcopy(origin.network)
    if not prunable_weights(network):
        raise IncompatibleError(
            f"{origin.spec.architecture}: no convolution or linear layer to prune"
        )
    slimming = slimming or slimming_of(origin, config)
    if slimming is not None:
        slimming.cut_as_chosen(network, config).apply(network)
        require_flow(network, origin.spec)
        return network, dense_masks(network)
    masks = choose_masks(network, config, config.sparsity)
    masks.apply(network)
    return network, masks


def start_of_distillation(
    config: RecoverConfig, origin: Teacher, pruned: nn.Module, masks: Masks
) -> tuple[nn.Module, Masks]:
    """Return what is distilled: the pruned network, or a dense copy that gets pruned on the way."""
    if starts_pruned(config):
        return pruned, masks
    dense = copy.deepcopy(origin.network)
    has_zeros = config.warm_start and config.channels is None
    return dense, masks_of_zeros(dense) if has_zeros else dense_masks(dense)


def slimming_at_start(setup: Setup) -> Slimming | None:
    """Return which of the teacher's channels the origin has, where it lacks some; else None."""
    if setup.channels_left is None:
        return None
    return slimming_of(setup.teacher, setup.config, setup.channels_left)


def begin_again(setup: Setup) -> tuple[nn.Module, Masks]:
    """Return what is distilled, as at the beginning of the run, unjudged."""
    network, masks = pruned_copy(setup.origin, setup.config, slimming_at_start(setup))
    if setup.config.schedule == "one-shot":  # of the others a dense copy is taught
        mend(setup, network, masks)
    return start_of_distillation(setup.config, setup.origin, network, masks)
