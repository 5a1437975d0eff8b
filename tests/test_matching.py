import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from recover.layers import layers_in_order
from recover.matching import correct_bias, match_batch_norm, moments_on, standardized_as

DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.randn(64, 3, 5, 5, generator=DRAWS) * 2 + 1


def small_network(*, affine: bool = True) -> nn.Sequential:
    """Two convolutions with BatchNorms that remember something, then a linear layer."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=affine), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=affine)),
        *(nn.Flatten(), nn.Linear(100, 2)),
    )
    draws = torch.Generator().manual_seed(1)
    for module in network:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1, generator=draws)
            module.running_var.uniform_(0.5, 2, generator=draws)
    for parameter in network.parameters():
        parameter.data.uniform_(-1, 1, generator=draws)
    return network.eval().requires_grad_(False)


def identity(images: Tensor) -> Tensor:
    return images


def halved(network: nn.Sequential) -> nn.Sequential:
    """A copy in which every second weight of the convolutions is zero."""
    pruned = copy.deepcopy(network)
    for conv in (pruned[0], pruned[3]):
        conv.weight.view(-1)[::2] = 0
    return pruned


def after(network: nn.Sequential, index: int) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(network[: index + 1](IMAGES), (0, 2, 3))
    return mean, var


def test_moments_are_one_and_zero_where_the_layer_remembers_the_images() -> None:
    norm = nn.BatchNorm2d(3, momentum=1.0)
    norm(IMAGES)

    deviation, mean = moments_on(norm.eval(), [IMAGES], identity)[""]

    torch.testing.assert_close(deviation, torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)


def test_moments_do_not_depend_on_how_the_images_are_parted() -> None:
    network = small_network()

    whole = moments_on(network, [IMAGES], identity)
    parts = moments_on(network, IMAGES.split([10, 30, 24]), identity)

    assert whole.keys() == parts.keys() == {"1", "4"}
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])
    assert moments_on(network, [], identity) == {}


@pytest.mark.parametrize("affine", [True, False])
def test_after_matching_every_channel_has_the_dense_networks_moments(affine: bool) -> None:
    dense = small_network(affine=affine)
    pruned = halved(dense)

    seen = match_batch_norm(pruned, moments_on(dense, [IMAGES], identity), [IMAGES], identity)

    assert seen == 1
    for index in (1, 4):
        # Running variances are unbiased, by convention: 1600 values, 1599 degrees of freedom.
        torch.testing.assert_close(after(pruned, index), after(dense, index), rtol=2e-3, atol=2e-3)
        for name in ("weight", "bias"):
            ours, theirs = getattr(pruned[index], name), getattr(dense[index], name)
            assert ours is theirs is None or torch.equal(ours, theirs)


def test_without_pruning_matching_gives_the_statistics_back() -> None:
    dense = small_network()
    same = copy.deepcopy(dense)

    match_batch_norm(same, moments_on(dense, [IMAGES], identity), [IMAGES], identity)

    for index in (1, 4):
        for name in ("running_mean", "running_var"):
            ours, theirs = getattr(same[index], name), getattr(dense[index], name)
            torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


def test_a_channel_of_which_nothing_is_left_stays_finite() -> None:
    dense = small_network()
    pruned = copy.deepcopy(dense)
    pruned[0].weight[0] = 0

    match_batch_norm(pruned, moments_on(dense, [IMAGES], identity), [IMAGES], identity)

    assert pruned(IMAGES).isfinite().all()
    assert (pruned[1].running_var >= 0).all()


def test_scales_and_shifts_are_put_back_even_after_an_exception() -> None:
    network = small_network()
    before = dict(network.named_parameters())

    with (
        pytest.raises(RuntimeError, match="stop"),
        standardized_as(network, moments_on(network, [IMAGES], identity)),
    ):
        raise RuntimeError("stop")

    after_it = dict(network.named_parameters())
    assert after_it.keys() == before.keys()
    assert all(after_it[name] is before[name] for name in before)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_with_no_batch_nothing_changes() -> None:
    dense = small_network()
    pruned = halved(dense)

    assert match_batch_norm(pruned, {}, [], identity) == 0

    assert torch.equal(pruned[1].running_mean, dense[1].running_mean)


def test_a_corrected_bias_makes_the_mean_output_the_dense_networks() -> None:
    dense = small_network()
    pruned = halved(dense)
    *_, last = layers_in_order(pruned, IMAGES[:1])

    correct_bias(pruned, dense, last, IMAGES.split([40, 24]), identity)

    torch.testing.assert_close(pruned(IMAGES).mean(0), dense(IMAGES).mean(0))
    assert torch.equal(pruned[6].weight, dense[6].weight)


class Marked(Tensor):
    """What somebody's forward makes of its images."""


class Marking(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.as_subclass(Marked)).as_subclass(Tensor)


def test_a_bias_is_corrected_where_a_forward_has_tensors_of_its_own() -> None:
    dense = Marking(*small_network())
    pruned = cast("Marking", halved(dense))
    *_, last = layers_in_order(pruned, IMAGES[:1])

    correct_bias(pruned, dense, last, [IMAGES], identity)

    torch.testing.assert_close(pruned(IMAGES).mean(0), dense(IMAGES).mean(0))


def test_moments_of_half_precision_are_those_of_the_numbers_that_it_holds() -> None:
    norm = nn.BatchNorm2d(3, momentum=1.0)
    images = (IMAGES + 100).bfloat16()
    norm(images.float())

    deviation, mean = moments_on(norm.eval(), [images], identity)[""]

    torch.testing.assert_close(deviation, torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-3, rtol=0)
