import copy

import pytest
import torch
from torch import nn

from recover.importance import magnitudes
from recover.masks import global_masks
from shared.magnitude import highest, num_weights_kept, prunable_weights, prune_globally


def test_the_highest_are_found_and_among_equals_the_first():
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0])

    assert highest(scores, 2).tolist() == [False, True, True, False, False]
    assert highest(scores, 5).all()
    assert not highest(scores, 0).any()


def test_the_smallest_weights_of_the_whole_network_become_zero():
    network = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1), nn.Linear(1, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.1, -4.0]]))
        network[2].weight.copy_(torch.tensor([[-0.2], [0.3]]))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prune_globally(network, 0.5)

    assert network[0].weight.tolist() == [[0.0, -4.0]]
    assert network[2].weight.flatten().tolist() == pytest.approx([0.0, 0.3])
    others = set(before) - {"0.weight", "2.weight"}
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in others)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.95, 0.999])
def test_what_opponents_lose_is_what_students_lose(tiny_teacher, sparsity):
    opponent, student = (copy.deepcopy(tiny_teacher.network) for _ in range(2))
    prune_globally(opponent, sparsity)
    global_masks(magnitudes(student), sparsity).apply(student)

    weights = prunable_weights(opponent)
    assert all(torch.equal(weights[n], w) for n, w in prunable_weights(student).items())
    num_zero = sum(int((weight == 0).sum()) for weight in weights.values())
    num_weights = sum(weight.numel() for weight in weights.values())
    assert num_zero == num_weights - num_weights_kept(num_weights, sparsity)
