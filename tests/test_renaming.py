"""A network from another repository: its tensors under other names, in the same order."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shared.architectures import build_network
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.teacher import Teacher, load_teacher, teacher_from_checkpoint


def foreign(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of another repository: all but the last word is another one."""
    numbers = {name.rpartition(".")[0]: None for name in tensors}
    layers = {layer: f"_blocks._layer{place}" for place, layer in enumerate(numbers)}
    return {
        f"{layers[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in tensors.items()
    }


def load(tensors: Mapping[str, Tensor], **options: object) -> Teacher:
    return teacher_from_checkpoint(Checkpoint(tensors=dict(tensors), metadata={}), **options)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network("resnet20", num_classes=7).state_dict()


def test_a_named_network_takes_foreign_names_in_their_order(weights: dict[str, Tensor]) -> None:
    plain = load(weights, architecture="resnet20")
    renamed = load(foreign(weights), architecture="resnet20")

    assert renamed.spec.fingerprint == plain.spec.fingerprint
    assert renamed.spec.num_classes == 7
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(renamed.logits(images), plain.logits(images))
    said = [text for text in renamed.spec.assumptions if "in their order" in text]
    assert len(said) == 1
    assert "'_blocks._layer0.weight' is conv1.weight" in said[0]
    assert not any("in their order" in text for text in plain.spec.assumptions)


def test_counters_may_be_missing_as_in_old_files(weights: dict[str, Tensor]) -> None:
    old = {n: t for n, t in foreign(weights).items() if not n.endswith("num_batches_tracked")}

    assert load(old, architecture="resnet20").spec.fingerprint == load(weights).spec.fingerprint


def test_a_file_that_names_its_network_is_taken_in_order_too(weights: dict[str, Tensor]) -> None:
    recorded = Checkpoint(tensors=foreign(weights), metadata={"architecture": "resnet20"})

    assert teacher_from_checkpoint(recorded).spec.architecture == "resnet20"


def test_unnamed_it_is_refused_with_the_name_that_would_fit(weights: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="--arch resnet20 takes them in their order"):
        load(foreign(weights))


def test_all_architectures_are_built_only_where_nothing_fits(
    weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes seconds, and a file whose network is under a prefix is a common one."""
    searched = []
    monkeypatch.setattr("shared.fitting.fit_by_position", lambda *_: searched.append(1))
    inside = {f"model.backbone.{name}": tensor for name, tensor in weights.items()}

    assert load({**inside, "loss.weight": torch.ones(7)}).spec.architecture == "resnet20"
    assert not searched
    with pytest.raises(CheckpointError):
        load(foreign(weights))
    assert len(searched) == 1


@pytest.mark.parametrize("change", ["two swapped", "one missing", "another shape", "another role"])
def test_what_does_not_fit_in_order_is_refused(weights: dict[str, Tensor], change: str) -> None:
    items = list(foreign(weights).items())
    if change == "two swapped":  # a convolution and the weight of the BatchNorm behind it
        items[0], items[1] = items[1], items[0]
    elif change == "one missing":
        del items[6]
    elif change == "another shape":
        items[0] = (items[0][0], torch.zeros(16, 3, 5, 5))
    else:
        items[1] = ("_blocks._layer1.scale", items[1][1])

    with pytest.raises(CheckpointError) as caught:
        load(dict(items), architecture="resnet20")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("stride", "side"), [(1, 32), (2, 224)])
def test_a_factory_that_begins_with_a_stride_is_taken_for_large_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int, side: int
) -> None:
    (tmp_path / f"stem_nets{stride}.py").write_text(
        "from torch import nn\n\n\ndef make(num_classes):\n"
        f"    layers = [nn.Conv2d(3, 4, 3, stride={stride}, padding=1), nn.BatchNorm2d(4)]\n"
        "    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)]\n"
        "    return nn.Sequential(*layers, *tail)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = build_network(f"stem_nets{stride}:make", num_classes=3)
    assert isinstance(network, nn.Sequential)
    torch.save(network.state_dict(), tmp_path / "own.pt")

    teacher = load_teacher(tmp_path / "own.pt", architecture=f"stem_nets{stride}:make")

    assert teacher.spec.image_shape == (3, side, side)
    assert any(f"image size {side}x{side}, a guess" in text for text in teacher.spec.assumptions)
