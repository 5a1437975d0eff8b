import pytest
import torch

from dreamforge.bn_stats import BatchNormMonitor
from dreamforge.mode_seeking import LEAST_DISTANCE, FeatureTap, likeness, same_class_pairs
from shared.teacher import batch_norms


def test_every_image_is_paired_with_the_next_of_its_class():
    images, partners = same_class_pairs(torch.tensor([2, 0, 2, 1, 2, 0]))

    assert sorted(zip(images.tolist(), partners.tolist(), strict=True)) == [(0, 2), (1, 5), (2, 4)]


def test_images_that_are_the_same_are_as_alike_as_can_be():
    features = torch.ones(4, 2, 3, 3)

    pairs = same_class_pairs(torch.zeros(4, dtype=torch.int64))

    assert likeness(features, pairs).item() == pytest.approx(1 / LEAST_DISTANCE)


def test_likeness_is_the_inverse_distance_within_classes_only():
    features = torch.tensor([[0.0, 0.0], [1.0, 3.0], [50.0, 50.0]])
    value = likeness(features, same_class_pairs(torch.tensor([0, 0, 1]))).item()

    assert value == pytest.approx(1 / (2 + LEAST_DISTANCE))


def test_without_pairs_there_is_nothing_to_keep_apart():
    features = torch.randn(3, 5, requires_grad=True)
    value = likeness(features, same_class_pairs(torch.arange(3)))

    assert value.item() == 0
    assert not value.requires_grad


def test_the_gradient_drives_a_class_apart():
    features = torch.tensor([[0.0], [1.0]], requires_grad=True)
    likeness(features, same_class_pairs(torch.tensor([0, 0]))).backward()

    assert features.grad is not None
    assert features.grad[0] > 0 > features.grad[1]  # down the gradient: 0 moves left, 1 right


def test_the_tap_sees_what_the_last_batch_norm_sees_in_standard_deviations(tiny_teacher):
    network = tiny_teacher.network
    last = list(batch_norms(network).values())[-1]
    seen = []
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    inputs = torch.randn(3, 3, 8, 8)
    with BatchNormMonitor(network), FeatureTap(network) as tap:
        network(inputs)
        features = tap.take()
    handle.remove()
    expected = seen[0] / (last.running_var + last.eps).sqrt()[:, None, None]

    assert torch.allclose(features, expected)
    assert not last._forward_pre_hooks


def test_the_tap_leaves_no_hook_behind_after_an_error(tiny_teacher):
    def fail():
        with FeatureTap(tiny_teacher.network):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not any(module._forward_pre_hooks for module in tiny_teacher.network.modules())
