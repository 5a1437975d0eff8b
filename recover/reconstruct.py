"""Layer-wise reconstruction: every layer's remaining weights make up for those that were pruned.

Layer by layer, from the input to the output, the kept weights are fitted by least squares such
that the layer says what it said in the dense network: inputs come from the network as it is
reconstructed so far, targets from the dense one, so that later layers repair the errors of earlier
ones. Only unlabelled images and forward passes are needed. After AdaPrune (Hubara et al. 2021,
arXiv:2102.08124); unlike there in closed form, after Optimal Brain Compression (Frantar and
Alistarh 2022, arXiv:2208.11580), and with masks that stay.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from recover.gram import Gram, num_places, rows_at
from recover.importance import prunable_weights
from recover.layers import Layer, layers_in_order, pass_through
from recover.least_squares import masked_least_squares
from recover.masks import Masks
from recover.repair import batch_statistics
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.seeding import generator

MOST_INPUTS = 8192  # of one output: their squares are 512 MiB in float64
MOST_ROWS = 2**16  # that a layer is fitted to; more images, then fewer places of each
DAMPING = 1e-2  # of the mean square of an input; as GPTQ and SparseGPT have it


def reconstructible_layers(network: nn.Module, inputs: Tensor) -> list[Layer]:
    """Return the layers that :func:`reconstruct` fits, in the order of the forward pass.

    Args:
        network: In evaluation mode.
        inputs: Any batch of normalised images, one is enough.
    """
    layers = layers_in_order(network, inputs)
    return [layer for layer in layers if layer.num_inputs <= MOST_INPUTS]


def not_reconstructible(network: nn.Module, inputs: Tensor) -> list[str]:
    """Return the names of the prunable weights that :func:`reconstruct` leaves as they are."""
    fitted = {layer.weight_name for layer in reconstructible_layers(network, inputs)}
    return [name for name in prunable_weights(network) if name not in fitted]


@torch.no_grad()
def reconstruct(
    network: nn.Module,
    dense: nn.Module,
    masks: Masks,
    batches: Callable[[], Iterable[Tensor]],
    normalize: Callable[[Tensor], Tensor],
    *,
    seed: int,
    renormalize: bool = True,
    damping: float = DAMPING,
    progress: ProgressCallback = ignore_progress,
) -> int:
    """Fit the kept weights and the biases of every layer to the dense network's outputs.

    Two partial forward passes of all images per layer.

    Args:
        network: Pruned, in evaluation mode; changed in place. What is zero stays zero.
        dense: What it was before; unchanged.
        masks: Of ``network``.
        batches: Gives the same uint8 images, as ``normalize`` takes them, at every call.
        normalize: Turns a batch into inputs on the network's device.
        seed: Of the places that are looked at in large feature maps.
        renormalize: Normalise by the statistics of each batch on the way. BatchNorm's own are lost,
            and must be estimated afterwards: they would have to change with every weight.
        damping: Pull towards the weights as they are, see
            :func:`recover.least_squares.masked_least_squares`.
        progress: Told of the layers.

    Returns:
        How many layers were fitted; none without images.
    """
    num_images = sum(len(batch) for batch in batches())
    if num_images == 0:
        return 0
    most_places = max(1, MOST_ROWS // num_images)
    layers = reconstructible_layers(network, normalize(next(iter(batches()))[:1]))
    for done, layer in enumerate(layers):
        progress(Progress(stage="reconstruct", done=done, total=len(layers), unit="layers"))
        with batch_statistics(network) if renormalize else nullcontext():
            gram = _gram(network, dense, layer, batches(), normalize, most_places, seed)
        _fit(layer, masks.kept[layer.weight_name], gram, damping, renormalize=renormalize)
    progress(Progress(stage="reconstruct", done=len(layers), total=len(layers), unit="layers"))
    return len(layers)


def _gram(
    network: nn.Module,
    dense: nn.Module,
    layer: Layer,
    batches: Iterable[Tensor],
    normalize: Callable[[Tensor], Tensor],
    most_places: int,
    seed: int,
) -> Gram:
    gram, twin = Gram.of(layer.module), dense.get_submodule(layer.name)
    for number, batch in enumerate(batches):
        inputs = normalize(batch)
        seen, _ = pass_through(network, layer.module, inputs)
        _, wanted = pass_through(dense, twin, inputs)
        draws = generator(seed, "reconstruct", layer.name, number)
        places = torch.randperm(num_places(twin, wanted), generator=draws)
        places = places[:most_places].sort().values
        gram.add(*rows_at(layer.module, seen, wanted, places))
    return gram


def _fit(layer: Layer, kept: Tensor, gram: Gram, damping: float, *, renormalize: bool) -> None:
    """Write the fitted weight, and the bias that gives the wanted mean."""
    module = layer.module
    # Who subtracts the mean anyway, by a bias or by a BatchNorm, need not spend weights on it.
    centered = module.bias is not None or (layer.is_normalized and renormalize)
    xx, xy = gram.moments(centered=centered)
    by_group = (len(xx), -1, layer.num_inputs)
    weight = masked_least_squares(
        module.weight.reshape(by_group), kept.reshape(by_group), xx, xy, damping
    )
    module.weight.copy_(weight.reshape(module.weight.shape))
    if module.bias is not None:
        inputs, outputs = gram.means()
        explained = (weight.double() @ inputs[:, :, None])[:, :, 0]
        module.bias.copy_((outputs - explained).flatten())
