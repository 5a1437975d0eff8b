"""Known architectures as people change them: another head, other biases."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from shared.architectures import identify
from shared.checkpoint import Checkpoint, save_network
from shared.errors import CheckpointError
from shared.teacher import Teacher, load_teacher, teacher_from_checkpoint

models = torchvision.models


def checkpoint_of(network: nn.Module) -> Checkpoint:
    return Checkpoint(tensors=network.state_dict(), metadata={})


def resnet18_behind_a_dropout() -> nn.Module:
    network = models.resnet18()
    network.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 4))
    return network


def mobilenet_with_a_bare_head() -> nn.Module:
    network = models.mobilenet_v2()
    network.classifier = nn.Linear(1280, 3)
    return network


def mobilenet_with_a_nested_head() -> nn.Module:
    network = models.mobilenet_v2()
    network.classifier[1] = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 3))
    return network


def googlenet_with_a_norm_in_its_head() -> nn.Module:
    network = models.googlenet(init_weights=False, aux_logits=False)
    network.fc = nn.Sequential(
        nn.Linear(1024, 256), nn.BatchNorm1d(256), nn.Linear(256, 5, bias=False)
    )
    return network


def shufflenet_with_two_layers_in_a_row() -> nn.Module:
    network = models.shufflenet_v2_x0_5()
    network.fc = nn.Sequential(nn.Linear(1024, 64), nn.Linear(64, 3), nn.Dropout())
    return network


def vgg_without_biases_and_with_one_layer() -> nn.Module:
    network = models.vgg11_bn(num_classes=2)
    network.classifier = nn.Sequential(nn.Dropout(), nn.Linear(512 * 49, 2))
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
    return network


def resnet_with_a_biased_stem() -> nn.Module:
    network = models.resnet18(num_classes=6)
    network.conv1.bias = nn.Parameter(torch.randn(64))
    return network


def resnet_with_an_unbiased_head() -> nn.Module:
    network = models.resnet18()
    network.fc = nn.Linear(512, 9, bias=False)
    return network


CHANGED = [
    resnet18_behind_a_dropout,
    mobilenet_with_a_bare_head,
    mobilenet_with_a_nested_head,
    googlenet_with_a_norm_in_its_head,
    shufflenet_with_two_layers_in_a_row,
    vgg_without_biases_and_with_one_layer,
    resnet_with_a_biased_stem,
    resnet_with_an_unbiased_head,
]


def answers(network: nn.Module) -> Tensor:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network.eval()(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", CHANGED)
def test_a_changed_network_answers_as_the_one_it_came_from(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    network = build()

    teacher = teacher_from_checkpoint(checkpoint_of(network), image_size=96)

    assert torch.equal(answers(teacher.network), answers(network))
    assert teacher.network.state_dict().keys() == network.state_dict().keys()
    assert teacher.spec.num_classes == answers(network).shape[1]
    assert any(text.startswith(f"took {teacher.spec.architecture}, but") for text in said(teacher))


def said(teacher: Teacher) -> tuple[str, ...]:
    return teacher.spec.assumptions


def test_named_and_prefixed_it_is_found_too() -> None:
    network = resnet18_behind_a_dropout()
    tensors = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}

    for options in ({}, {"architecture": "resnet18"}):
        teacher = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}), **options)
        assert torch.equal(answers(teacher.network), answers(network))


def test_what_we_save_of_it_loads_again(tmp_path: Path) -> None:
    teacher = teacher_from_checkpoint(checkpoint_of(resnet18_behind_a_dropout()))
    path = tmp_path / "student.safetensors"
    save_network(path, teacher.network, teacher.spec.to_json())

    again = load_teacher(path)

    assert again.spec.fingerprint == teacher.spec.fingerprint
    assert (again.spec.architecture, again.spec.num_classes) == ("resnet18", 4)


@pytest.mark.parametrize("name", [None, "efficientnet_b0"])
def test_an_activation_that_nobody_can_know_is_asked_for(name: str | None) -> None:
    network = models.efficientnet_b0()
    network.classifier = nn.Sequential(
        *(nn.BatchNorm1d(1280), nn.Linear(1280, 128), nn.SiLU(), nn.BatchNorm1d(128)),
        *(nn.Dropout(), nn.Linear(128, 3)),
    )

    with pytest.raises(CheckpointError) as caught:
        teacher_from_checkpoint(checkpoint_of(network), architecture=name)

    message = str(caught.value)
    assert "efficientnet_b0: its head 'classifier' is another" in message
    layers = "BatchNorm1d(1280), Linear(1280, 128), ..., BatchNorm1d(128), ..., Linear(128, 3)"
    assert layers in message  # so that a factory written after it has all of them
    assert "--arch package.module:factory" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Linear(100, 4)),  # takes what the network does not give
        nn.Sequential(nn.Linear(512, 4), nn.BatchNorm1d(4)),  # answers with a norm
        nn.Sequential(nn.Conv1d(512, 4, 1)),
        nn.Sequential(nn.Linear(512, 32), nn.Linear(16, 4)),
    ],
)
def test_heads_of_other_kinds_are_refused(head: nn.Module) -> None:
    network = models.resnet18()
    network.fc = head

    with pytest.raises(CheckpointError, match="nearest is resnet18: 2 of its 102 tensors are"):
        identify(network.state_dict())


def test_other_changes_are_still_refused() -> None:
    network = resnet18_behind_a_dropout()
    network.layer1[0].bn3 = nn.BatchNorm2d(64)

    with pytest.raises(CheckpointError, match="nearest is resnet18"):
        identify(network.state_dict())


def test_what_to_do_about_a_doubtful_head_is_said_once() -> None:
    network = models.resnet18()
    network.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 3))

    with pytest.raises(CheckpointError, match="which activation stands between") as caught:
        teacher_from_checkpoint(checkpoint_of(network))
    assert str(caught.value).count("package.module:factory") == 1
