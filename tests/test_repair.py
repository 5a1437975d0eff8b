import pytest
import torch
from torch import Tensor, nn

from recover.repair import repair_batch_norm


def one_norm() -> nn.Sequential:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.ReLU())
    network[0].running_mean += 7
    return network


def batches(*sizes: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, 3, 5, 5, generator=draws) * (i + 1) + i for i, size in enumerate(sizes)
    ]


def identity(images: Tensor) -> Tensor:
    return images


def test_after_one_batch_the_statistics_are_that_batchs_own() -> None:
    network, (batch,) = one_norm(), batches(16)

    assert repair_batch_norm(network, [batch], identity) == 1

    torch.testing.assert_close(network[0].running_mean, batch.mean((0, 2, 3)))
    torch.testing.assert_close(network[0].running_var, batch.var((0, 2, 3), unbiased=True))


def test_over_several_batches_the_variance_of_their_means_counts() -> None:
    network, parts = one_norm(), batches(16, 16, 16)

    repair_batch_norm(network, parts, identity)

    whole = torch.cat(parts)
    torch.testing.assert_close(network[0].running_mean, whole.mean((0, 2, 3)))
    # Equal to the last digit for biased variances; the unbiased ones differ by 1 / 400.
    torch.testing.assert_close(
        network[0].running_var, whole.var((0, 2, 3), unbiased=False), rtol=5e-3, atol=0
    )


def test_the_order_of_the_batches_does_not_matter() -> None:
    forward, backward = one_norm(), one_norm()
    parts = batches(8, 8, 8)

    repair_batch_norm(forward, parts, identity)
    repair_batch_norm(backward, parts[::-1], identity)

    torch.testing.assert_close(forward[0].running_var, backward[0].running_var)


def test_every_layer_is_repaired_with_the_inputs_that_it_then_sees() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    (batch,) = batches(32)

    repair_batch_norm(network, [batch], identity)

    outputs = network.eval()(batch)
    torch.testing.assert_close(outputs.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.var((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


def test_modes_momenta_and_hooks_are_as_before_even_after_an_exception() -> None:
    network = one_norm()
    network.train()
    network[1].eval()
    network[0].momentum = 0.25

    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("broken")

    for normalize in (identity, broken):
        try:
            repair_batch_norm(network, batches(4), normalize)
        except RuntimeError:
            assert normalize is broken

    assert [module.training for module in network] == [True, False, True]
    assert network[0].momentum == 0.25
    assert not network[0]._forward_hooks


def test_with_no_batch_nothing_changes() -> None:
    network = one_norm()

    assert repair_batch_norm(network, [], identity) == 0

    assert network[0].running_mean.tolist() == [7, 7, 7]


def test_a_network_without_batch_norm_is_left_alone() -> None:
    def never(images: Tensor) -> Tensor:
        pytest.fail("there is nothing to estimate")

    assert repair_batch_norm(nn.Sequential(nn.Conv2d(3, 3, 1)), batches(4), never) == 0
