import math

import pytest
import torch

from dreamforge.bn_stats import BatchStats
from dreamforge.config import SynthesisConfig
from dreamforge.objective import (
    EPSILON,
    bn_kl,
    bn_l2,
    entropy,
    l2,
    objective,
    total_variation,
)


def stats(mean, var, running_mean, running_var):
    return BatchStats(*(torch.tensor(v) for v in (mean, var, running_mean, running_var)))


def test_bn_distances_are_zero_when_the_statistics_match():
    same = stats([1.0, -2.0], [0.5, 3.0], [1.0, -2.0], [0.5, 3.0])

    assert bn_kl([same, same]).item() == pytest.approx(0, abs=1e-6)
    assert bn_l2([same, same]).item() == 0


def test_bn_kl_is_the_textbook_gaussian_divergence():
    layer = stats([3.0], [4.0 - EPSILON], [1.0], [9.0 - EPSILON])
    # KL(N(3, 4) || N(1, 9)) = ln(3/2) + (4 + (3-1)^2) / (2 * 9) - 1/2
    expected = math.log(1.5) + 8 / 18 - 0.5

    assert bn_kl([layer]).item() == pytest.approx(expected, rel=1e-5)


def test_bn_kl_averages_over_channels_then_layers_so_that_width_and_depth_do_not_count():
    narrow = stats([3.0], [4.0], [1.0], [9.0])
    wide = stats([3.0] * 8, [4.0] * 8, [1.0] * 8, [9.0] * 8)

    assert bn_kl([wide, wide, narrow]).item() == pytest.approx(bn_kl([narrow]).item(), rel=1e-6)


def test_the_first_layer_can_count_more():
    layer = stats([3.0], [4.0], [1.0], [9.0])

    assert bn_kl([layer], 10.0).item() == pytest.approx(10 * bn_kl([layer]).item(), rel=1e-6)
    assert bn_l2([layer, layer], 10.0).item() == pytest.approx(11 * bn_l2([layer]).item())


def test_bn_l2_is_a_sum_of_norms_worked_out_by_hand():
    layer = stats([3.0, 4.0], [1.0, 1.0], [0.0, 0.0], [1.0, 6.0])

    assert bn_l2([layer]).item() == pytest.approx(5.0 + 5.0)


@pytest.mark.parametrize("distance", [bn_kl, bn_l2])
def test_a_network_without_statistics_is_an_error(distance):
    with pytest.raises(ValueError, match="no BatchNorm"):
        distance([])


@pytest.mark.parametrize("norm", ["mean-square", "l2", "l1"])
def test_total_variation_of_a_constant_image_is_zero(norm):
    assert total_variation(torch.full((2, 3, 5, 4), 0.7), norm).item() == 0


def test_total_variation_of_one_bright_pixel():
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 1] = 2.0
    # Two vertical and two horizontal differences of 2, among 12 of each; four diagonal ones.
    assert total_variation(image, "l1").item() == pytest.approx(8.0)
    assert total_variation(image, "mean-square").item() == pytest.approx(2 * 8 / 12)
    assert total_variation(image, "l2").item() == pytest.approx(4 * math.sqrt(8))


def test_l2():
    inputs = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)

    assert l2(inputs, "l2").item() == pytest.approx(5.0)
    assert l2(inputs, "mean-square").item() == pytest.approx(12.5)


def test_entropy_of_certain_and_uniform_answers():
    assert entropy(torch.tensor([[100.0, 0.0, 0.0]])).item() == pytest.approx(0, abs=1e-6)
    assert entropy(torch.zeros(3, 8)).item() == pytest.approx(math.log(8))


def test_the_objective_is_the_weighted_sum_of_its_terms():
    config = SynthesisConfig(class_weight=2.0, bn_weight=3.0, tv_weight=5.0, l2_weight=7.0)
    inputs, logits = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    layer = stats([3.0], [4.0], [1.0], [9.0])

    total, terms = objective(config, inputs, logits, torch.tensor([0, 1]), [layer])

    expected = 2 * terms["class"] + 3 * terms["bn"] + 5 * terms["tv"] + 7 * terms["l2"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_terms_of_weight_zero_are_not_computed():
    config = SynthesisConfig(bn_weight=0.0, class_weight=1.0)
    _, terms = objective(config, torch.randn(1, 3, 4, 4), torch.randn(1, 5), torch.tensor([0]), [])

    assert set(terms) == {"class"}
