import torch
from recover_fixtures import ODD_NUM_WEIGHTS, odd_network
from torch import nn

from recover.config import RecoverConfig
from recover.curvature import DECAY, SquaredGradients
from recover.importance import (
    PRUNED,
    fisher_importance,
    importance,
    magnitudes,
    prunable_weights,
    random_importance,
)


def test_convolutions_and_linear_layers_are_prunable_but_neither_biases_nor_batch_norm() -> None:
    weights = prunable_weights(odd_network())

    assert list(weights) == [
        "stem.weight",
        "grouped.weight",
        "depthwise.weight",
        "up.weight",
        "first.weight",
        "head.weight",
    ]


def test_a_weight_that_two_layers_share_counts_once() -> None:
    weights = prunable_weights(odd_network())

    assert sum(weight.numel() for weight in weights.values()) == ODD_NUM_WEIGHTS


def test_the_names_are_those_of_the_state_dict() -> None:
    network = odd_network()

    assert prunable_weights(network).keys() <= network.state_dict().keys()
    assert prunable_weights(nn.Linear(2, 2)).keys() == {"weight"}


def test_scores_are_absolute_values_and_the_weights_stay() -> None:
    layer = nn.Linear(2, 1)
    layer.weight.data = torch.tensor([[-3.0, 2.0]])

    scores = magnitudes(layer)

    assert scores["weight"].tolist() == [[3.0, 2.0]]
    assert not scores["weight"].requires_grad
    assert layer.weight.tolist() == [[-3.0, 2.0]]


def test_what_is_pruned_scores_less_than_a_kept_zero() -> None:
    layer = nn.Linear(3, 1)
    layer.weight.data = torch.tensor([[0.0, 0.0, 1.0]])

    scores = magnitudes(layer, {"weight": torch.tensor([[False, True, True]])})

    assert scores["weight"].tolist() == [[PRUNED, 0.0, 1.0]]
    assert PRUNED < 0


def test_random_scores_depend_on_seed_and_name_alone() -> None:
    network, other = odd_network(0), odd_network(1).to(memory_format=torch.channels_last)

    scores, again = random_importance(network, 7), random_importance(other, 7)

    assert scores.keys() == prunable_weights(network).keys()
    for name, score in scores.items():
        assert torch.equal(score, again[name])
        assert not torch.equal(score, random_importance(network, 8)[name])
        assert 0 <= float(score.min()) <= float(score.max()) < 1
        assert not score.requires_grad
    assert again["stem.weight"].is_contiguous(memory_format=torch.channels_last)


def test_fisher_orders_weights_by_what_the_loss_gains_without_them() -> None:
    """Of ``1/2 sum_i h_i w_i^2``, at its least, taking away weight i costs ``1/2 h_i w_i^2``."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, -2.0, 1.0, 0.5]])
    curvatures = torch.tensor([[0.1, 1.0, 9.0, 1.0]])

    scores = fisher_importance(layer, {"weight": curvatures})["weight"]

    costs = 0.5 * curvatures * layer.weight.detach().square()
    torch.testing.assert_close(scores.square() / 2, costs)
    assert scores.argsort().tolist() == costs.argsort().tolist()
    assert scores.argsort().tolist() != layer.weight.abs().argsort().tolist()
    assert not scores.requires_grad


def test_a_batch_norm_hides_what_a_channels_last_weights_are_worth() -> None:
    """The length of a channel's weights changes nothing behind it, so they have no gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3, eps=1e-10), nn.Flatten()
        )
        images, answers = torch.randn(64, 3, 4, 4), torch.randn(64, 48)
    kept = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)[..., None, None]
    with torch.no_grad():
        network[0].weight.mul_(kept)
    (network(images) * answers).mean().backward()
    squares = network[0].weight.grad.square() * kept
    assert float(squares[2].sum()) < 1e-4 * float(squares[0].sum())

    scores = fisher_importance(network, {"0.weight": squares}, {"0.weight": kept})["0.weight"]

    full = torch.cat([squares[0, :, 0, 0] * 3 / 2, squares[1, :2, 0, 0] * 2])
    expected = torch.cat([full, full.mean()[None]]).sqrt() * network[0].weight[kept].abs()
    torch.testing.assert_close(scores[kept], expected)
    assert (scores[~kept] == PRUNED).all()


def test_layers_of_lone_weights_are_compared_by_magnitude() -> None:
    network = nn.Conv2d(2, 2, 1, bias=False)
    kept = {"weight": torch.tensor([[True, False], [False, True]])[..., None, None]}

    scores = fisher_importance(network, {"weight": torch.zeros(2, 2, 1, 1)}, kept)["weight"]

    assert torch.equal(scores[kept["weight"]], network.weight.detach().abs()[kept["weight"]])


def test_squared_gradients_are_those_of_the_last_steps() -> None:
    layer = nn.Linear(2, 1)
    squares = SquaredGradients(layer)
    assert squares.means["weight"].tolist() == [[0, 0]]

    for gradient in ([[3.0, 1.0]], [[1.0, 0.0]]):
        layer.weight.grad = torch.tensor(gradient)
        squares.update(layer)
    layer.weight.grad = None
    squares.update(layer)

    share = 1 - DECAY
    expected = [share * DECAY * (9 * DECAY + 1), share * DECAY**2]
    torch.testing.assert_close(squares.means["weight"], torch.tensor([expected]))
    other = SquaredGradients(layer)
    other.restore(squares.means)
    assert torch.equal(other.means["weight"], squares.means["weight"])
    assert other.means["weight"] is not squares.means["weight"]


def test_the_config_says_which_scores() -> None:
    network = odd_network()
    kept = {"head.weight": torch.zeros(4, 8, dtype=torch.bool)}
    squares = {name: weight.detach() ** 2 for name, weight in prunable_weights(network).items()}
    assert all(
        torch.equal(score, magnitudes(network, kept)[name])
        for name, score in importance(network, RecoverConfig(importance="fisher"), kept).items()
    )

    for name, expected in (
        ("magnitude", magnitudes(network, kept)),
        ("random", random_importance(network, 3, kept)),
        ("fisher", fisher_importance(network, squares, kept)),
    ):
        found = importance(network, RecoverConfig(importance=name, seed=3), kept, squares)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert (found["head.weight"] == PRUNED).all()
