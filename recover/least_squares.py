"""The weights that are kept, chosen such that they say what all of them said.

AdaPrune (Hubara et al. 2021, arXiv:2102.08124) and, as the limit of their sequence of updates,
Optimal Brain Compression (Frantar and Alistarh 2022, arXiv:2208.11580).
"""

import torch
from torch import Tensor

_LEAST_RIDGE = 1e-12  # inputs that vary by less than a millionth do not vary: that is rounding
_MOST_ENTRIES = 2**24  # of the matrices solved at once: 128 MiB in float64


@torch.no_grad()
def masked_least_squares(
    weight: Tensor, kept: Tensor, xx: Tensor, xy: Tensor, damping: float
) -> Tensor:
    """Return the weight whose outputs are nearest to the wanted ones, zero where it is pruned.

    For every output the kept entries ``w`` minimise
    ``mean((x . w - y)^2) + damping d |w - w_now|^2``, with ``d`` the mean square of an input of the
    group. Damping pulls towards the present weights, not to zero: what is right stays as it is,
    and inputs that never vary leave their weights alone.

    Args:
        weight: The present one, float ``(G, O, P)``, zero where pruned.
        kept: Boolean, in its shape.
        xx: ``(G, P, P)``, means of ``x x^T``, float64.
        xy: ``(G, P, O)``, means of ``x y^T``, float64.
        damping: Positive, and above the rounding of ``xx``.

    Returns:
        In shape and dtype of ``weight``.
    """
    num_groups, num_outputs, num_inputs = weight.shape
    now, wanted = weight.double(), xy.mT
    ridge = (damping * xx.diagonal(dim1=1, dim2=2).mean(1)).clamp(min=_LEAST_RIDGE)
    missing = torch.where(kept, wanted - now @ xx, 0)  # the gradient, up to its sign
    missing = missing.reshape(-1, num_inputs)
    mask, update = kept.reshape(-1, num_inputs), torch.zeros_like(missing)
    groups = torch.arange(num_groups, device=weight.device).repeat_interleave(num_outputs)
    for chunk in _chunks(mask.sum(1)):
        places, is_there = _padded_places(mask[chunk])
        matrix = xx[groups[chunk][:, None, None], places[:, :, None], places[:, None]]
        matrix *= is_there[:, :, None] & is_there[:, None]
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal += torch.where(is_there, ridge[groups[chunk], None], 1.0)
        right = missing[chunk].gather(1, places) * is_there
        solved = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(matrix))[:, :, 0]
        update[chunk] = update[chunk].scatter_add(1, places, solved * is_there)
    return torch.where(kept, now + update.view_as(now), 0).to(weight.dtype)


def _chunks(counts: Tensor) -> list[Tensor]:
    """Return rows in groups of similar counts, small enough to be solved at once; none of 0."""
    order = counts.argsort(stable=True)
    chunks: list[Tensor] = []
    rows = order[counts[order] > 0].tolist()
    sizes = counts.tolist()
    while rows:
        size = max(1, _MOST_ENTRIES // sizes[rows[-1]] ** 2)
        chunks.append(torch.tensor(rows[-size:], device=counts.device))
        rows = rows[:-size]
    return chunks


def _padded_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return where every row of ``mask`` is True, filled up to the longest, and which are no fill.

    Both ``(rows, n)``: int64 and boolean.
    """
    longest = int(mask.sum(1).max())
    places = mask.byte().argsort(dim=1, descending=True, stable=True)[:, :longest]
    return places, mask.gather(1, places)
