"""How much channels matter, and which of them to keep where only so much may be computed."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recover.coupling import Axis

Positions = NDArray[np.int64]
LEAST_SHARE = 0.4  # that a layer keeps of what it would keep if all kept the same share


def highest(scores: Tensor, number: int) -> Positions:
    """Return where the highest scores are, ascending; among equals the first ones."""
    best: Positions = scores.argsort(descending=True, stable=True)[:number].sort().values.numpy()
    return best


def rounded(count: int, multiple: int, most: int) -> int:
    """Return the multiple that is nearest to ``count``, but 0, and at most ``most``.

    All that there are may stay, whatever their number is; where they are less than the multiple,
    it is ``count``.

    Args:
        count: At least 1.
        multiple: At least 1.
        most: How many there are.
    """
    if count >= most or most < multiple:
        return min(count, most)
    lower = count // multiple * multiple
    nearest = lower if 2 * (count - lower) < multiple else lower + multiple
    return min(most, max(nearest, multiple))


@torch.no_grad()
def unit_scores(
    network: nn.Module,
    places: Mapping[Axis, Positions],
    squared_gradients: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return how much each unit of a group matters, float64 ``(units,)`` on the CPU.

    The squared norm of the weights that make or take its channels, in each layer relative to the
    group's mean, so that no layer outweighs the others (Fang et al. 2023, section 3.3). With
    ``squared_gradients`` the sum of squared weights times these: what the loss would lose (Theis et
    al. 2018, arXiv:1801.05787).
    """
    parameters = dict(network.named_parameters())
    total = torch.zeros(len(next(iter(places.values()))), dtype=torch.float64)
    for (name, dim), positions in places.items():
        weight = parameters.get(name)
        if weight is None or weight.dim() < 2:
            continue
        squares = weight.detach().double().square()
        if squared_gradients is not None:
            squares = squares * squared_gradients[name].double()
        norms = squares.transpose(0, dim).flatten(1).sum(1).cpu()
        share = norms[torch.from_numpy(positions)].sum(1)
        if squared_gradients is None:
            share = share / share.mean().clamp_min(torch.finfo(torch.float64).tiny)
        total += share
    return total


def worth_most(
    worth: Sequence[Tensor],
    least: Sequence[int],
    cost: Callable[[Sequence[Positions]], int],
    budget: int,
    round_to: int = 1,
) -> list[Positions]:
    """Return which units of each group to keep: those worth most, as many as the budget allows.

    Args:
        worth: Of each group's units, comparable between groups.
        least: How many each group keeps in any case.
        cost: Of what is kept; more cost no less.
        budget: The most that may be spent; exceeded only where ``least`` does.
        round_to: Numbers of units are multiples of it, see :func:`rounded`.
    """

    def kept_above(threshold: float) -> list[Positions]:
        counts = [int((values >= threshold).sum()) for values in worth]
        return [
            highest(values, rounded(max(count, fewest), round_to, len(values)))
            for values, count, fewest in zip(worth, counts, least, strict=True)
        ]

    thresholds = torch.cat(tuple(worth)).sort().values.tolist()
    thresholds.append(float("inf"))
    place = bisect_left(thresholds, True, key=lambda t: cost(kept_above(t)) <= budget)
    kept = kept_above(thresholds[min(place, len(thresholds) - 1)])
    return kept if round_to == 1 else _filled(kept, worth, cost, budget, round_to)


def _filled(
    kept: list[Positions],
    worth: Sequence[Tensor],
    cost: Callable[[Sequence[Positions]], int],
    budget: int,
    round_to: int,
) -> list[Positions]:
    """Give groups more units, ``round_to`` at a time, worth most first, while the budget allows."""
    ranked = [values.sort(descending=True).values for values in worth]
    left = set(range(len(kept)))
    while left:
        next_worth = {
            number: float(ranked[number][len(kept[number]) :][:round_to].sum()) for number in left
        }
        best = max(sorted(left), key=next_worth.__getitem__)
        more = highest(worth[best], len(kept[best]) + round_to)
        tried = [*kept[:best], more, *kept[best + 1 :]]
        if len(more) > len(kept[best]) and cost(tried) <= budget:
            kept = tried
        else:
            left.remove(best)
    return kept
