"""Layers whose weight is computed from other tensors: weight norms and spectral norms."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import NUM_CLASSES, blobs
from recover_fixtures import blob_dreams, quick_config
from torch import nn

from recover.folding import folded
from recover.preparation import prepare
from shared.architectures import held
from shared.checkpoint import Checkpoint
from shared.errors import IncompatibleError
from shared.magnitude import prunable_weights
from shared.teacher import Teacher, teacher_from_checkpoint

Norm = Callable[[nn.Module], nn.Module]


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is said to be old
        return nn.utils.weight_norm(layer)  # type: ignore[no-any-return]


NORMS = [
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
    old_weight_norm,
    nn.utils.spectral_norm,
]


def build(norm: Norm, layers: tuple[int, ...]) -> nn.Module:
    """Convolutions 0 and 3, of which those in ``layers`` have the norm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, NUM_CLASSES)),
        )
        for position in layers:
            network[position] = norm(network[position])
        with torch.no_grad():
            for _ in range(20):
                network(blobs(64)[0] / 255)
    return network.eval()


def load(network: nn.Module) -> Teacher:
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with held("somebodys:Network", network):
        return teacher_from_checkpoint(
            Checkpoint(tensors=tensors, metadata={}),
            architecture="somebodys:Network",
            image_size=8,
            mean=(0.0,),
            std=(1.0,),
        )


@pytest.mark.parametrize("layers", [(0,), (3,), (0, 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_a_teacher_with_computed_weights_answers_as_its_original(
    norm: Norm, layers: tuple[int, ...]
) -> None:
    network = build(norm, layers)
    images = blobs(8)[0]
    with torch.no_grad():
        expected = network(images / 255)

    teacher = load(network)

    torch.testing.assert_close(teacher.logits(images), expected)
    torch.testing.assert_close(folded(teacher.network, images / 255)(images / 255), expected)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, old_weight_norm])
def test_layers_that_are_never_pruned_are_named(norm: Norm, tmp_path: Path) -> None:
    teacher = load(build(norm, (3,)))
    dreams = blob_dreams(tmp_path / "set", teacher)

    setup = prepare(quick_config(), teacher, dreams)

    assert list(prunable_weights(teacher.network)) == ["0.weight", "8.weight"]
    (said,) = [text for text in setup.warnings if text.startswith("never pruned")]
    assert said.endswith("torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)")
    assert ": 3; " in said


def test_a_network_of_such_layers_alone_is_refused_in_one_line(tmp_path: Path) -> None:
    teacher = load(build(nn.utils.parametrizations.weight_norm, (0, 3, 8)))
    dreams = blob_dreams(tmp_path / "set", teacher)

    with pytest.raises(IncompatibleError, match="no convolution or linear layer to prune") as e:
        prepare(quick_config(), teacher, dreams)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("norm", NORMS)
def test_a_teacher_can_be_copied_once_it_is_loaded(norm: Norm) -> None:
    teacher = load(build(norm, (3,)))
    images = blobs(8)[0]

    copied = copy.deepcopy(teacher.network)

    torch.testing.assert_close(copied(images / 255), teacher.logits(images))


def test_a_network_with_weights_of_its_own_needs_no_such_warning(tmp_path: Path) -> None:
    teacher = load(build(nn.Identity, ()))
    dreams = blob_dreams(tmp_path / "set", teacher)

    assert not any("never" in text for text in prepare(quick_config(), teacher, dreams).warnings)
