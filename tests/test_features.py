import copy
import dataclasses
from typing import Any

import pytest
import torch
from conftest import blobs
from recover_fixtures import OddNetwork, begin_distillation, quick_config
from torch import Tensor, nn

from recover.features import feature_distance, feature_scales, features_of
from recover.folding import folded
from shared.architectures import build_network
from shared.errors import ConfigError
from shared.seeding import generator
from shared.teacher import Teacher


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "features"))


def distance(features: Tensor, target: Tensor) -> Tensor:
    key = ("layer", 0)
    targets = {key: target}
    return feature_distance({key: features}, targets, feature_scales(targets))


def test_the_distance_is_0_for_equal_features_and_1_for_their_mean() -> None:
    target = random(64, 3, 5, 5) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) + 7

    assert distance(target.clone(), target) == 0
    mean = target.mean((0, 2, 3), keepdim=True).expand_as(target)
    assert distance(mean, target) == pytest.approx(1, rel=1e-4)


def test_the_distance_does_not_depend_on_the_scale_of_a_layer() -> None:
    features, target = random(16, 4, 3, 3), random(16, 4, 3, 3, seed=1)

    assert distance(100 * features, 100 * target) == pytest.approx(
        float(distance(features, target)), rel=1e-5
    )


def test_every_layer_counts_the_same_however_large_it_is() -> None:
    targets = {("small", 0): random(8, 2), ("large", 0): random(8, 32, 9, 9)}
    scales = feature_scales(targets)
    features = {key: tensor.clone() for key, tensor in targets.items()}
    features["small", 0] = targets["small", 0].mean(0).expand(8, 2)

    assert feature_distance(features, targets, scales) == pytest.approx(0.5, rel=1e-5)


def test_the_gradient_is_that_of_the_plain_formula() -> None:
    target, scale = random(6, 3, 4, 4, seed=1), torch.tensor(0.3)
    features = [random(6, 3, 4, 4).requires_grad_() for _ in range(2)]
    key = ("layer", 0)

    feature_distance({key: features[0]}, {key: target}, {key: scale}).backward()
    ((features[1] - target).square().mean() * scale).backward()

    found, expected = (tensor.grad for tensor in features)
    assert found is not None
    assert expected is not None
    assert torch.allclose(found, expected, rtol=1e-6)


def test_half_precision_features_give_the_same_distance_and_their_own_dtype() -> None:
    features = random(32, 8, 6, 6).bfloat16().requires_grad_()
    target = random(32, 8, 6, 6, seed=1).bfloat16()

    found = distance(features, target)
    found.backward()

    assert found.dtype is torch.float32
    expected = distance(features.detach().float(), target.float())
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-2)
    assert features.grad is not None
    assert features.grad.dtype is torch.bfloat16


def test_the_parts_of_a_batch_average_to_the_whole() -> None:
    features, target = random(12, 4, 3, 3), random(12, 4, 3, 3, seed=1)
    key = ("layer", 0)
    scales = feature_scales({key: target})

    def of(rows: slice) -> float:
        return float(feature_distance({key: features[rows]}, {key: target[rows]}, scales))

    assert of(slice(0, 4)) / 3 + of(slice(4, 12)) * 2 / 3 == pytest.approx(of(slice(0, 12)))


def test_features_that_never_change_do_not_divide_by_zero() -> None:
    assert distance(torch.zeros(4, 2), torch.zeros(4, 2)) == 0


def test_the_larger_variance_counts_and_only_layers_that_all_have() -> None:
    one, two = {("a", 0): random(64, 4), ("b", 0): random(8, 2)}, {("a", 0): 3 * random(64, 4)}

    scales = feature_scales(one, two)

    assert list(scales) == [("a", 0)]
    assert float(scales["a", 0]) == pytest.approx(float(feature_scales(two)["a", 0]))


def test_a_teacher_that_lets_hardly_anything_through_can_be_taught(tiny_teacher: Teacher) -> None:
    network = copy.deepcopy(tiny_teacher.network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var *= 1e9
    teacher = dataclasses.replace(tiny_teacher, network=network)

    run = begin_distillation(teacher, quick_config())

    assert 0 < float(run._lesson.loss(run.student, blobs(16, seed=3)[0]).detach()) < 1e3


def test_layers_without_a_partner_are_refused_together() -> None:
    one, other = {("a", 0): random(4, 2)}, {("b", 0): random(4, 2)}
    with pytest.raises(ValueError, match="no layer in common"):
        feature_distance(one, other, feature_scales(other))


def test_features_are_the_inputs_of_layers_each_tensor_once_and_never_the_images() -> None:
    network = OddNetwork().eval()
    seen: list[Any] = []
    network.grouped.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))

    with features_of(network) as features, torch.no_grad():
        network(random(2, 3, 8, 8))

    names = [name for name, _ in features]
    assert names == ["grouped", "depthwise", "up", "first", "second", "head"]
    assert features["grouped", 0] is seen[0]


class Fork(nn.Module):
    """Two layers that take one tensor, and one that takes another."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        shared = inputs.relu()
        head: Tensor = self.head(self.left(shared) + self.right(shared))
        return head


def test_a_tensor_that_two_layers_take_is_there_once() -> None:
    network = Fork()

    with features_of(network) as features:
        network(random(2, 3))

    assert list(features) == [("left", 0), ("head", 0)]


def test_a_layer_called_twice_has_two_features() -> None:
    layer = nn.Linear(3, 3)
    network = nn.Sequential(nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), layer)

    with features_of(network) as features:
        network(random(2, 3))

    assert list(features) == [("1", 0), ("1", 1), ("1", 2)]


def test_nothing_stays_on_the_network() -> None:
    network = OddNetwork()
    with pytest.raises(RuntimeError), features_of(network):
        network(random(1, 3))  # images have four dimensions

    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    "architecture",
    ["resnet8", "cifar_vgg11_bn", "cifar_mobilenet_v2", "cifar_densenet121"],
)
def test_a_folded_teacher_has_the_features_of_its_copies(architecture: str) -> None:
    network = build_network(architecture, num_classes=10, in_channels=3).eval()
    inputs = random(2, 3, 32, 32)

    teacher = folded(network, inputs)

    with torch.no_grad():
        with features_of(network) as features:
            network(inputs)
        with features_of(teacher) as targets:
            teacher(inputs)

    assert features.keys() == targets.keys()
    for key, feature in features.items():
        assert torch.allclose(feature, targets[key], rtol=1e-3, atol=1e-4)


def test_a_dense_copy_with_frozen_statistics_has_nothing_to_learn(tiny_teacher: Teacher) -> None:
    config = quick_config(sparsity=0.0, bn_mode="frozen", feature_weight=100.0)
    run = begin_distillation(tiny_teacher, config)

    run.advance()

    assert run.row()["loss"] == pytest.approx(0, abs=1e-5)


def test_the_weight_scales_the_term(tiny_teacher: Teacher) -> None:
    images, _ = blobs(16, seed=3)

    def loss(weight: float) -> float:
        run = begin_distillation(tiny_teacher, quick_config(feature_weight=weight))
        return float(run._lesson.loss(run.student, images).detach())

    plain = loss(0)
    assert loss(2.0) - plain == pytest.approx(2 * (loss(1.0) - plain), rel=1e-4)
    assert loss(1.0) > plain  # statistics of the batch are not those that the teacher remembers


def test_another_architecture_has_no_features_to_compare() -> None:
    shape = (3, 32, 32)
    assert quick_config(student="resnet8").resolve(shape).feature_weight == 0
    assert quick_config().resolve(shape).feature_weight
    with pytest.raises(ConfigError, match="--feature-weight 1: found --student resnet8"):
        quick_config(student="resnet8", feature_weight=1.0)
