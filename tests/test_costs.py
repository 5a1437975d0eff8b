import gzip

import pytest
import torch
from recover_fixtures import odd_network
from torch import Tensor, nn

from recover import costs
from recover.costs import (
    measure_costs,
    measure_latency,
    num_bytes_dense,
    num_bytes_gzip,
    num_bytes_packed,
)
from recover.multiply_adds import count_macs
from shared.checkpoint import to_safetensors
from shared.teacher import Teacher


def with_zeros(layer: nn.Module, num_zeros: int) -> nn.Module:
    with torch.no_grad():
        weight = layer.weight.fill_(1.0)  # type: ignore[union-attr, operator]
        weight.view(-1)[:num_zeros] = 0
    return layer


@pytest.mark.parametrize(
    ("layer", "positions", "num_weights"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 6 * 6, 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2), 2 * 2, 8 * 3 * 9),
        (nn.Conv2d(3, 6, 1, groups=3, bias=False), 6 * 6, 6 * 1),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 6 * 6, 3 * 5 * 4),  # positions of the input
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 7)), 1, 7 * 3 * 36),
        (nn.Linear(6, 4), 3 * 6, 4 * 6),  # of every row
    ],
)
def test_multiply_adds_are_positions_times_weights(layer, positions, num_weights):
    inner = layer[1] if isinstance(layer, nn.Sequential) else layer
    with_zeros(inner, 5)

    dense, left = count_macs(layer, torch.zeros(1, 3, 6, 6))

    assert dense == positions * num_weights
    assert left == positions * (num_weights - 5)


def test_a_layer_that_runs_twice_counts_twice():
    layer = nn.Linear(6, 6)

    assert count_macs(nn.Sequential(layer, layer), torch.zeros(1, 6))[0] == 2 * 36


@pytest.mark.parametrize(("kdim", "vdim"), [(None, None), (6, 10)])
def test_the_matrices_of_attention_count(kdim: int | None, vdim: int | None) -> None:
    """Four of them: of queries, keys, values, and of what comes out, at 5, 3, 3 and 5 positions."""
    attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=vdim, batch_first=True)
    given = torch.zeros(1, 5, 8), torch.zeros(1, 3, kdim or 8), torch.zeros(1, 3, vdim or 8)

    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, image: Tensor) -> Tensor:
            return self.attention(given[0], key=given[1], value=given[2])[0]  # type: ignore[no-any-return]

    with_zeros(attention.out_proj, 7)
    expected = 5 * 64 + 3 * 8 * (kdim or 8) + 3 * 8 * (vdim or 8) + 5 * 64
    assert count_macs(Crossed(), torch.zeros(1, 3, 6, 6)) == (expected, expected - 5 * 7)


class SelfAttention(nn.MultiheadAttention):
    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens, tokens, tokens)[0]  # type: ignore[no-any-return]


class WithWeight(nn.Linear):
    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(rows), self.weight


@pytest.mark.parametrize(
    ("layer", "expected"), [(SelfAttention(8, 2), 5 * 4 * 64), (WithWeight(8, 3), 5 * 24)]
)
def test_layers_of_somebodys_own_class_count(layer: nn.Module, expected: int) -> None:
    assert count_macs(layer, torch.zeros(1, 5, 8))[0] == expected


def test_a_transformer_counts_as_the_same_layers_one_by_one() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()

    assert count_macs(layer, torch.zeros(1, 5, 8))[0] == 5 * (4 * 64 + 2 * 8 * 12)


def test_a_network_is_as_it_was_after_counting():
    network = odd_network().train()
    network.norm.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    count_macs(network, torch.zeros(1, 3, 6, 6))

    assert network.training
    assert not network.norm.training
    assert not any(module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_no_hook_is_left_when_the_forward_pass_fails():
    network = odd_network()

    with pytest.raises(RuntimeError):
        count_macs(network, torch.zeros(1, 5, 6, 6))

    assert not any(module._forward_hooks for module in network.modules())


def test_packed_is_a_bit_for_every_weight_and_the_values_that_are_left():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    with_zeros(network[0], 20)
    with_zeros(network[3], 0)

    num_values = 27 + 3 + 4 * 3 + 6 + 2  # the counter of the BatchNorm is no value
    assert num_bytes_dense(network) == 4 * num_values
    assert num_bytes_packed(network) == 4 * (num_values - 20) + 4 + 1  # 27 bits, 6 bits


def test_tied_weights_are_stored_once():
    tied = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    tied[1].weight = tied[0].weight

    assert num_bytes_dense(tied) == 4 * 64
    assert num_bytes_packed(tied) == 4 * 64 + 8


def test_gzip_is_what_the_program_makes_of_the_file():
    network = nn.Linear(8, 8)

    assert num_bytes_gzip(network) == len(gzip.compress(to_safetensors(network, {}), 6))
    assert num_bytes_gzip(with_zeros(network, 60)) < num_bytes_gzip(nn.Linear(8, 8))


def test_networks_are_timed_in_turns_and_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(costs, "NUM_TIMED_RUNS", 4)
    network = odd_network().train()

    seconds = measure_latency({"a": network, "b": odd_network()}, torch.zeros(1, 3, 6, 6))

    assert {name: len(runs) for name, runs in seconds.items()} == {"a": 4, "b": 4}
    assert all(second > 0 for runs in seconds.values() for second in runs)
    assert network.training


def test_slow_networks_are_timed_less_often(monkeypatch):
    monkeypatch.setattr(costs, "NUM_TIMED_RUNS", 21)
    monkeypatch.setattr(costs, "SECONDS_OF_TIMING", 0.0)

    seconds = measure_latency({"a": nn.Linear(2, 2)}, torch.zeros(1, 2))

    assert len(seconds["a"]) == costs.LEAST_TIMED_RUNS


def test_the_costs_of_a_dense_network_are_those_of_the_teacher(tiny_teacher: Teacher):
    found = measure_costs(tiny_teacher.network, tiny_teacher.network, (3, 8, 8))

    assert found.macs_sparse == found.macs_dense
    assert found.num_bytes_packed > found.num_bytes_dense  # the bitmask saves nothing here
    assert found.num_threads == torch.get_num_threads()
    assert "do not speed PyTorch up" in found.note
