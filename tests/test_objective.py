import math

import pytest
import torch

from dreamforge.bn_stats import BatchStats
from dreamforge.config import SynthesisConfig
from dreamforge.objective import (
    EPSILON,
    bn_kl,
    bn_l2,
    competition,
    entropy,
    l2,
    objective,
    sameness,
    total_variation,
)
from shared.errors import CheckpointError


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
    with pytest.raises(CheckpointError, match="no BatchNorm"):
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


def test_networks_that_answer_the_same_agree_wholly_and_pull_at_nothing():
    logits = torch.randn(5, 7, requires_grad=True)
    agreement = competition(logits, logits.detach(), 3.0)
    (gradient,) = torch.autograd.grad(agreement, logits)

    assert agreement.item() == pytest.approx(1)
    assert gradient.abs().max() < 1e-6


def test_networks_that_share_no_answer_do_not_agree_at_all():
    sure = torch.tensor([[1e4, 0.0, 0.0]])
    agreement = competition(sure.requires_grad_(), sure.detach().roll(1, 1), 1.0)
    (gradient,) = torch.autograd.grad(agreement, sure)

    assert agreement.item() == pytest.approx(0, abs=1e-6)
    assert gradient.isfinite().all()


def test_competition_is_the_textbook_divergence_at_its_temperature():
    # At temperature 2: p = (3/4, 1/4) and q = (1/2, 1/2), so that m = (5/8, 3/8).
    teacher, opponent = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    to_middle = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
    from_middle = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)
    expected = 1 - (to_middle + from_middle) / 2 / math.log(2)

    assert competition(teacher, opponent, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert competition(opponent, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_a_step_along_the_gradient_drives_the_answers_apart():
    teacher = torch.tensor([[1.0, 0.5, 0.0]], requires_grad=True)
    opponent = torch.tensor([[0.8, 0.9, 0.0]])
    before = competition(teacher, opponent, 1.0)
    (gradient,) = torch.autograd.grad(before, teacher)

    assert competition(teacher.detach() - 0.1 * gradient, opponent, 1.0) < before


def test_dreams_of_a_class_that_resemble_the_same_others_are_the_same():
    logits = torch.tensor([[5.0, 1.0, 2.0, 3.0]]).repeat(4, 1)
    more_certain = logits + torch.tensor([1.0, 0.0, 0.0, 0.0])

    assert sameness(logits, torch.zeros(4, dtype=torch.int64)).item() == pytest.approx(1)
    both = torch.cat([logits, more_certain])  # how sure the answer is does not count
    assert sameness(both, torch.zeros(8, dtype=torch.int64)).item() == pytest.approx(1)


def test_dreams_of_a_class_that_each_resemble_another_class_differ_wholly():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    logits = torch.zeros(6, 4)
    logits[range(6), labels] = 200.0
    logits[range(6), torch.tensor([1, 2, 3, 0, 2, 3])] = 100.0

    assert sameness(logits, labels).item() == pytest.approx(0, abs=1e-6)
    # Two of three others, equally often: ln 2 of ln 3.
    partly = sameness(logits[:2], labels[:2]).item()
    assert partly == pytest.approx(1 - math.log(2) / math.log(3), rel=1e-5)


def test_a_class_with_one_dream_and_a_network_with_two_classes_have_nothing_to_spread():
    logits = torch.randn(4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(sameness(logits, torch.arange(4)), logits)

    assert sameness(logits, torch.arange(4)).item() == pytest.approx(1)
    assert gradient.abs().max() < 1e-6
    assert sameness(torch.randn(6, 2), torch.tensor([0, 1] * 3)).item() == pytest.approx(1)


def test_the_new_terms_are_weighed_like_the_others():
    config = SynthesisConfig(
        method="adaptive",
        class_weight=2.0,
        bn_weight=0.0,
        diversity_weight=3.0,
        competition_weight=5.0,
    )
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2] * 2)
    others = [torch.randn(6, 4), logits.bfloat16()]
    total, terms = objective(config, torch.zeros(6, 3, 4, 4), logits, labels, [], others)

    agreements = [competition(logits, other, 3.0).item() for other in others]
    assert terms["competition"].item() == pytest.approx(sum(agreements) / 2)
    assert terms["diversity"].item() == pytest.approx(sameness(logits, labels).item())
    expected = 2 * terms["class"] + 3 * terms["diversity"] + 5 * terms["competition"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_targets_may_be_probabilities():
    config = SynthesisConfig(bn_weight=0.0, diversity_weight=1.0)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2] * 2)
    mixed = 0.75 * torch.nn.functional.one_hot(labels, 4) + 0.25 / 4
    _, hard = objective(config, torch.zeros(6, 3, 4, 4), logits, labels, [])
    _, soft = objective(config, torch.zeros(6, 3, 4, 4), logits, mixed, [])

    uniform = -logits.log_softmax(1).mean().item()
    assert soft["class"].item() == pytest.approx(0.75 * hard["class"].item() + 0.25 * uniform)
    assert soft["diversity"].item() == hard["diversity"].item()
