import itertools
from typing import Any

import pytest
import torch
from recover_fixtures import ODD_NUM_WEIGHTS, odd_network
from torch import nn

from recover.allocation import (
    choose_masks,
    lamp_scores,
    proportional_counts,
    whole_layers,
)
from recover.config import RecoverConfig
from recover.importance import PRUNED, prunable_weights
from recover.masks import num_nonzero
from recover.warm_start import masks_of_zeros
from shared.errors import ConfigError

ALLOCATIONS = ("global", "uniform", "erk", "lamp")
WAYS = [*itertools.product(["magnitude"], ALLOCATIONS), ("random", "global"), ("random", "erk")]


def two_layers() -> nn.Sequential:
    """A convolution of 4 x 2 x 3 x 3 = 72 weights and a linear layer of 10 x 4 = 40."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 10))


def config(**changes: Any) -> RecoverConfig:
    return RecoverConfig(**changes)


def counts(network: nn.Module, chosen: RecoverConfig) -> dict[str, int]:
    masks = choose_masks(network, chosen, chosen.sparsity)
    return {layer.name: layer.kept for layer in masks.layers()}


def test_the_lamp_score_is_a_square_over_the_squares_that_are_no_smaller() -> None:
    scores = lamp_scores(torch.tensor([[3.0, 1.0], [0.0, 2.0]]))

    # 9 / 9, 1 / (1 + 4 + 9), 0 / 14, 4 / (4 + 9)
    expected = torch.tensor([[1, 1 / 14], [0, 4 / 13]], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, rtol=1e-15, atol=0)


def test_equal_weights_have_equal_lamp_scores() -> None:
    assert lamp_scores(torch.tensor([2.0, 1.0, 2.0, 1.0])).tolist() == [0.5, 0.1, 0.5, 0.1]


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_lamp_does_not_care_about_the_scale_of_a_layer(scale: float) -> None:
    weights = torch.arange(1, 100, dtype=torch.float32)

    scaled = lamp_scores(weights * scale)

    torch.testing.assert_close(scaled, lamp_scores(weights), rtol=1e-5, atol=0)
    assert (scaled.diff() > 0).all()


def test_weights_that_are_pruned_or_zero_are_last_in_lamp() -> None:
    assert lamp_scores(torch.tensor([PRUNED, 0.0, 2.0])).tolist() == [PRUNED, 0, 1]
    assert lamp_scores(torch.zeros(2)).tolist() == [0, 0]


def test_the_memory_format_changes_no_lamp_score_and_is_kept() -> None:
    weight = odd_network().stem.weight.detach().abs()

    last = lamp_scores(weight.to(memory_format=torch.channels_last))

    assert torch.equal(last, lamp_scores(weight))
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_lamp_keeps_the_same_part_of_a_layer_and_of_its_multiple() -> None:
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False))
    network[0].weight.data = torch.tensor([[1.0, 2.0]])
    network[1].weight.data = torch.tensor([[20.0, 10.0]])

    def kept(sparsity: float, allocation: str) -> list[Any]:
        masks = choose_masks(network, config(allocation=allocation), sparsity)
        return [mask.tolist() for mask in masks.kept.values()]

    assert kept(0.5, "lamp") == [[[False, True]], [[True, False]]]
    assert kept(0.25, "lamp") == [[[True, True]], [[True, False]]]  # 1/5 each: the first wins
    assert kept(0.5, "global") == [[[False, False]], [[True, True]]]


def test_lamp_leaves_no_layer_empty_whose_gradients_are_small() -> None:
    """Of 2 x 2 weights, those of one layer matter a thousand times less by their gradients."""
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False))
    network[0].weight.data = torch.tensor([[1.0, 2.0]])
    network[1].weight.data = torch.tensor([[2.0, 1.0]])
    squares = {"0.weight": torch.tensor([[1.0, 1.0]]), "1.weight": torch.tensor([[1e-6, 9e-6]])}

    def kept(allocation: str) -> list[Any]:
        chosen = config(allocation=allocation, importance="fisher")
        masks = choose_masks(network, chosen, 0.5, None, squares)
        return [mask.tolist() for mask in masks.kept.values()]

    assert kept("global") == [[[True, True]], [[False, False]]]
    assert kept("lamp") == [[[False, True]], [[False, True]]]  # w^2 E[g^2]: 4e-6, 9e-6


def test_erk_shares_are_proportional_to_the_sum_of_the_dimensions() -> None:
    # 28 of 112 weights, as 4 + 2 + 3 + 3 = 12 to 10 + 4 = 14: 12.92 and 15.08.
    assert counts(two_layers(), config(allocation="erk", sparsity=0.75)) == {
        "0.weight": 13,
        "2.weight": 15,
    }


def test_a_layer_that_erk_would_overfill_is_dense_and_the_other_gets_the_rest() -> None:
    # 84 of 112: the linear layer's share is 45.2 of its 40 weights.
    assert counts(two_layers(), config(allocation="erk", sparsity=0.25)) == {
        "0.weight": 44,
        "2.weight": 40,
    }


def test_uniform_is_the_same_share_of_every_layer() -> None:
    assert counts(two_layers(), config(allocation="uniform", sparsity=0.75)) == {
        "0.weight": 18,
        "2.weight": 10,
    }


@pytest.mark.parametrize(
    ("total", "parts", "room", "expected"),
    [
        (10, [1, 1, 1], [9, 9, 9], [4, 3, 3]),  # the first of equal remainders
        (10, [3, 5, 4], [9, 9, 9], [3, 4, 3]),  # 2.5, 4.17, 3.33
        (10, [1, 1, 8], [9, 9, 4], [3, 3, 4]),  # what does not fit goes to the others
        (10, [1, 4, 5], [9, 1, 2], [7, 1, 2]),
        (11, [4, 4, 2], [4, 3, 4], [4, 3, 4]),  # all full
        (2, [1, 1, 1], [0, 9, 9], [0, 1, 1]),
        (0, [1, 2], [5, 5], [0, 0]),
        (0, [], [], []),
    ],
)
def test_shares_are_rounded_by_largest_remainder(
    total: int, parts: list[int], room: list[int], expected: list[int]
) -> None:
    names = "abc"[: len(parts)]
    pairs = (dict(zip(names, values, strict=True)) for values in (parts, room))

    assert list(proportional_counts(total, *pairs).values()) == expected


def test_shares_add_up_whatever_they_are() -> None:
    room = {"a": 3, "b": 50, "c": 7, "d": 1000}
    parts = {"a": 10, "b": 11, "c": 5, "d": 300}
    for total in range(1061):
        found = proportional_counts(total, parts, room)
        assert sum(found.values()) == total
        assert all(0 <= found[name] <= room[name] for name in room)


@pytest.mark.parametrize(("importance", "allocation"), WAYS)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.77, 0.9, 0.98, 0.999])
def test_the_count_is_exact_for_unusual_layers(
    sparsity: float, importance: str, allocation: str
) -> None:
    network = odd_network()

    masks = choose_masks(network, config(importance=importance, allocation=allocation), sparsity)
    masks.apply(network)

    assert num_nonzero(network) == masks.num_kept == round((1 - sparsity) * ODD_NUM_WEIGHTS)
    assert network.second.weight is network.first.weight
    masks.check(network)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_count_is_exact_when_all_weights_are_equal(allocation: str) -> None:
    network = odd_network()
    for weight in prunable_weights(network).values():
        weight.data.fill_(-0.5)

    masks = choose_masks(network, config(allocation=allocation), 0.7)

    assert sum(layer.kept for layer in masks.layers()) == masks.num_kept
    assert masks.num_kept == round(0.3 * ODD_NUM_WEIGHTS)
    for mask in masks.kept.values():  # ties go to the first
        assert (mask.flatten().int().diff() <= 0).all()


@pytest.mark.parametrize(("importance", "allocation"), WAYS)
def test_where_more_is_zero_than_was_to_be_pruned_no_zero_comes_back(
    importance: str, allocation: str
) -> None:
    """A student to start from may have dead channels: all of its zeros count as pruned."""
    network, chosen = odd_network(), config(importance=importance, allocation=allocation)
    network.stem.weight.data[:4] = 0
    kept = masks_of_zeros(network).kept
    num_left = ODD_NUM_WEIGHTS - 4 * 3 * 9

    for sparsity in (0.0, 0.01, 0.5):
        masks = choose_masks(network, chosen, sparsity, kept)
        assert masks.num_kept == min(num_left, round((1 - sparsity) * ODD_NUM_WEIGHTS))
        assert sum(layer.kept for layer in masks.layers()) == masks.num_kept
        assert not any((mask & ~kept[name]).any() for name, mask in masks.kept.items())


@pytest.mark.parametrize(("importance", "allocation"), WAYS)
def test_what_is_pruned_never_comes_back(importance: str, allocation: str) -> None:
    network = odd_network()
    chosen = config(importance=importance, allocation=allocation, keep="depthwise.weight")
    masks = choose_masks(network, chosen, 0.0)
    for step in range(1, 41):
        before, sparsity = masks, 0.02 * step
        masks = choose_masks(network, chosen, sparsity, before.kept)
        masks.apply(network)
        for weight in prunable_weights(network).values():  # training moves what is left
            weight.data *= torch.linspace(0.5, 2, weight.numel()).view_as(weight)

        assert masks.num_kept == round((1 - sparsity) * ODD_NUM_WEIGHTS)
        assert masks.kept["depthwise.weight"].all()
        for name, mask in masks.kept.items():
            assert not (mask & ~before.kept[name]).any()


@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.97])
def test_by_default_the_largest_magnitudes_of_the_network_are_kept(sparsity: float) -> None:
    network = odd_network()
    flat = [value for w in prunable_weights(network).values() for value in w.flatten().tolist()]
    order = sorted(range(len(flat)), key=lambda place: (-abs(flat[place]), place))
    expected = torch.zeros(len(flat), dtype=torch.bool)
    expected[order[: round((1 - sparsity) * len(flat))]] = True

    masks = choose_masks(network, RecoverConfig(sparsity=sparsity), sparsity)

    found = torch.cat([mask.flatten() for mask in masks.kept.values()])
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"keep_first": True}, ("stem.weight",)),
        ({"keep_last": True}, ("head.weight",)),
        ({"keep": "stem.weight"}, ("stem.weight",)),
        ({"keep": "*d.weight, depth*", "keep_last": True}, ("grouped", "depthwise", "head")),
        ({"keep": "[fh]*.weight,"}, ("first.weight", "head.weight")),
    ],
)
def test_patterns_and_flags_name_what_is_never_pruned(
    changes: dict[str, Any], expected: tuple[str, ...]
) -> None:
    names = whole_layers(odd_network(), config(**changes, sparsity=0.1))

    assert names == tuple(f"{name.removesuffix('.weight')}.weight" for name in expected)


@pytest.mark.parametrize(("importance", "allocation"), WAYS)
def test_kept_layers_stay_whole_and_count_in_the_sparsity(importance: str, allocation: str) -> None:
    network = odd_network()
    chosen = config(
        importance=importance, allocation=allocation, keep="depthwise.*", keep_last=True
    )

    masks = choose_masks(network, chosen, 0.8)

    assert masks.kept["depthwise.weight"].all()
    assert masks.kept["head.weight"].all()
    assert masks.num_kept == round(0.2 * ODD_NUM_WEIGHTS)
    assert not masks.kept["stem.weight"].all()


def test_uniform_shares_what_kept_layers_leave() -> None:
    # 56 of 112 weights, 40 of them in the layer to keep: 16 of the other 72.
    chosen = config(allocation="uniform", sparsity=0.5, keep_last=True)

    assert counts(two_layers(), chosen) == {"0.weight": 16, "2.weight": 40}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_all_that_is_left_may_be_in_kept_layers(allocation: str) -> None:
    chosen = config(allocation=allocation, sparsity=1 - 40 / 112, keep_last=True)

    masks = choose_masks(two_layers(), chosen, chosen.sparsity)

    assert {layer.name: layer.kept for layer in masks.layers()} == {"0.weight": 0, "2.weight": 40}
    assert masks.empty_layers() == ["0.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"keep": "2.*", "sparsity": 0.75},
            "--sparsity 0.75: found 40 weights in the layers to keep, expected at most the 28",
        ),
        ({"keep": "fc.*"}, "--keep: found 'fc.*', expected .* such as 0.weight or 2.weight"),
        ({"keep": "2"}, "--keep: found '2'"),
    ],
)
def test_what_cannot_be_kept_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("*'", r"\*'")):
        whole_layers(two_layers(), config(**changes))


def test_a_network_with_nothing_to_prune_has_no_first_layer() -> None:
    assert whole_layers(nn.BatchNorm2d(2), config(keep_first=True, keep_last=True)) == ()
