"""What a pruned network is given before anything is taught: forward passes on dreams, no gradient.

First reconstruction, then BatchNorm's statistics, which must describe the weights as they are then.
"""

from collections.abc import Iterator
from contextlib import nullcontext

from torch import Tensor, nn

from recover.importance import prunable_weights
from recover.layers import layers_in_order
from recover.masks import Masks
from recover.matching import Affine, correct_bias, match_batch_norm, moments_on, standardized_as
from recover.preparation import Setup
from recover.reconstruct import not_reconstructible, reconstruct
from recover.repair import repair_batch_norm
from shared.images import to_pixels
from shared.progress import ProgressCallback, ignore_progress


def mend(
    setup: Setup,
    network: nn.Module,
    masks: Masks,
    progress: ProgressCallback = ignore_progress,
) -> bool:
    """Reconstruct and repair a pruned copy of ``setup.origin`` in place, as the config says.

    Deterministic: a run that was interrupted here starts over and gets the same network. One that
    lacks nothing is left alone: its statistics are those of real images, and dreams know no better.

    Args:
        setup: Its training dreams are used, as many as ``--repair-images`` says.
        network: Pruned in one shot, in evaluation mode.
        masks: Of ``network``; what they prune stays exactly zero.
        progress: Told of the layers that are reconstructed.

    Returns:
        Whether anything was done.
    """
    config = setup.config
    if num_batches_of(setup) == 0 or _is_whole(masks, setup.origin.network):
        return False
    moments = _moments_to_match(setup)
    fitted = 0
    if config.reconstruct == "least-squares":
        with standardized_as(network, moments) if moments else nullcontext():
            fitted = reconstruct(
                network,
                setup.origin.network,
                masks,
                lambda: repair_batches(setup),
                lambda images: inputs_of(setup, images),
                seed=config.seed,
                renormalize=config.repair != "none",
                progress=progress,
            )
    return _repair(setup, network, moments) or fitted > 0


def _is_whole(masks: Masks, origin: nn.Module) -> bool:
    as_many = sum(w.numel() for w in prunable_weights(origin).values()) == masks.num_weights
    return as_many and masks.num_kept == masks.num_weights


def repair(setup: Setup, network: nn.Module) -> bool:
    """Set the BatchNorm statistics of ``network`` as ``--repair`` says; return whether it did."""
    return num_batches_of(setup) > 0 and _repair(setup, network, _moments_to_match(setup))


def mending_warnings(setup: Setup) -> list[str]:
    """Return a sentence that names the weights that reconstruction leaves, if there are any."""
    if setup.config.reconstruct == "none" or num_batches_of(setup) == 0:
        return []
    image = next(repair_batches(setup))[:1]
    names = not_reconstructible(setup.origin.network, inputs_of(setup, image))
    if not names:
        return []
    return [f"--reconstruct left {', '.join(names)} as pruned: shared, too wide or of another kind"]


def repair_batches(setup: Setup) -> Iterator[Tensor]:
    """Return the batches of training dreams, uint8, the same ones at every call."""
    return (setup.feed.batch(step)[0] for step in range(num_batches_of(setup)))


def num_batches_of(setup: Setup) -> int:
    """Return how many batches ``--repair-images`` are."""
    wanted = min(setup.config.repair_images, len(setup.split.train))
    return max(wanted // setup.num_rows_per_batch, min(wanted, 1))


def inputs_of(setup: Setup, images: Tensor) -> Tensor:
    """Return what networks eat, float32 ``(N, C, H, W)``, of uint8 images."""
    return setup.teacher.normalize(to_pixels(images))


def _moments_to_match(setup: Setup) -> dict[str, Affine]:
    if setup.config.repair != "matched":
        return {}
    return moments_on(
        setup.origin.network, repair_batches(setup), lambda images: inputs_of(setup, images)
    )


def _repair(setup: Setup, network: nn.Module, moments: dict[str, Affine]) -> bool:
    def normalize(images: Tensor) -> Tensor:
        return inputs_of(setup, images)

    if setup.config.repair == "none":
        return False
    if setup.config.repair == "batch-norm":
        return repair_batch_norm(network, repair_batches(setup), normalize) > 0
    match_batch_norm(network, moments, repair_batches(setup), normalize)
    _correct_biases(setup, network)
    return True


def _correct_biases(setup: Setup, network: nn.Module) -> None:
    """Correct the biases that no BatchNorm makes up for, in the order of the forward pass."""
    example = inputs_of(setup, next(repair_batches(setup))[:1])
    for layer in layers_in_order(network, example):
        if layer.module.bias is not None and not layer.is_normalized:
            correct_bias(
                network,
                setup.origin.network,
                layer,
                repair_batches(setup),
                lambda images: inputs_of(setup, images),
            )
