import pytest
import torch
from recover_fixtures import ODD_NUM_WEIGHTS, odd_network
from torch import nn

from recover.importance import magnitudes, prunable_weights
from recover.masks import (
    dense_masks,
    global_masks,
    layerwise_masks,
    num_nonzero,
    num_weights_kept,
)


def test_the_largest_weights_of_the_whole_network_are_kept() -> None:
    scores = {"a": torch.tensor([0.1, 5.0]), "b": torch.tensor([[4.0, 0.2], [3.0, 0.3]])}

    masks = global_masks(scores, 0.5)

    assert masks.kept["a"].tolist() == [False, True]
    assert masks.kept["b"].tolist() == [[True, False], [True, False]]
    assert masks.num_kept == 3
    assert masks.num_weights == 6
    assert masks.sparsity == 0.5


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.8, 0.9, 0.98, 0.9999])
def test_the_count_is_exact_even_when_all_scores_are_equal(sparsity: float) -> None:
    masks = global_masks({"a": torch.ones(7, 11), "b": torch.ones(23)}, sparsity)

    kept = torch.cat([mask.flatten() for mask in masks.kept.values()])
    assert int(kept.sum()) == masks.num_kept == round((1 - sparsity) * 100)
    assert kept[: masks.num_kept].all()  # ties go to the first


def test_ties_at_the_threshold_are_broken_by_position() -> None:
    masks = global_masks({"a": torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0])}, 0.4)

    assert masks.kept["a"].tolist() == [True, True, True, False, False]


def test_the_memory_format_of_the_weights_changes_no_mask_and_is_kept() -> None:
    weight = torch.randint(0, 3, (8, 4, 3, 3)).float()
    plain = global_masks({"a": weight}, 0.6).kept["a"]

    last = global_masks({"a": weight.to(memory_format=torch.channels_last)}, 0.6).kept["a"]

    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_unusual_layers_are_pruned_to_the_exact_count(sparsity: float) -> None:
    network = odd_network()
    masks = global_masks(magnitudes(network), sparsity)

    masks.apply(network)

    assert num_nonzero(network) == masks.num_kept == num_weights_kept(ODD_NUM_WEIGHTS, sparsity)
    assert network.second.weight is network.first.weight
    assert network.depthwise.bias is not None
    assert network.depthwise.bias.count_nonzero() == 8
    masks.check(network)


def test_sparsity_zero_changes_nothing() -> None:
    network = odd_network()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}

    masks = global_masks(magnitudes(network), 0.0)
    masks.apply(network)

    assert masks.sparsity == 0
    assert masks.num_kept == dense_masks(network).num_kept
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


def test_names_and_modules_stay_those_of_the_dense_network() -> None:
    network, dense = odd_network(), odd_network()

    global_masks(magnitudes(network), 0.9).apply(network)

    assert network.state_dict().keys() == dense.state_dict().keys()
    assert not any(module._forward_pre_hooks for module in network.modules())
    dense.load_state_dict(network.state_dict())


def test_momentum_and_weight_decay_never_revive_a_weight() -> None:
    network = odd_network()
    sgd = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
    )
    for step in range(4):
        if step == 2:  # momentum is there already
            masks = global_masks(magnitudes(network), 0.7)
            masks.apply(network)
            masks.apply_to_optimizer(sgd, network)
        sgd.zero_grad()
        network(torch.ones(2, 3, 4, 4) + step).square().sum().backward()
        if step >= 2:
            masks.apply_to_gradients(network)
        sgd.step()

    masks.check(network)
    for name, weight in prunable_weights(network).items():
        assert not weight[~masks.kept[name]].any()
        assert weight[masks.kept[name]].any()
        assert not sgd.state[weight]["momentum_buffer"][~masks.kept[name]].any()


def test_a_layer_without_gradient_is_left_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    dense_masks(network).apply_to_gradients(network)

    assert network[0].weight.grad is None


def test_the_check_notices_a_revived_weight() -> None:
    network = odd_network()
    masks = global_masks(magnitudes(network), 0.5)
    masks.apply(network)

    network.head.weight.data += 1e-3

    with pytest.raises(AssertionError, match=r"head\.weight: \d+ pruned weights are not zero"):
        masks.check(network)


def test_layers_are_listed_and_empty_ones_named() -> None:
    scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([8.0, 9.0])}

    masks = global_masks(scores, 0.5)

    assert [(layer.name, layer.shape, layer.kept) for layer in masks.layers()] == [
        ("a", (1, 2), 0),
        ("b", (2,), 2),
    ]
    assert masks.empty_layers() == ["a"]


def test_layer_by_layer_each_keeps_its_own_best() -> None:
    scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([8.0, 9.0, 8.0])}

    masks = layerwise_masks(scores, {"a": 1, "b": 2})

    assert masks.kept["a"].tolist() == [[False, True]]
    assert masks.kept["b"].tolist() == [True, True, False]  # ties go to the first
    assert masks.num_kept == 3
    assert layerwise_masks(scores, {"a": 0, "b": 3}).empty_layers() == ["a"]
