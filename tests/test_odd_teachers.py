"""Teachers that are not a plain network in float32: handled, or refused with the reason."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from dreamforge.config import SynthesisConfig
from dreamforge.engine import Engine
from dreamforge.units import rescaled
from shared.architectures import build_network
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, ConfigError
from shared.layout import layout_of
from shared.odd_layers import PlainBatchNorm
from shared.teacher import Teacher, batch_norms, teacher_from_checkpoint

CPU = torch.device("cpu")
CLASSES = 4
SIZE = (8, 12)  # not square: whatever mixes up height and width fails

Factory = Callable[[int], nn.Module]


class TwoHeads(nn.Module):
    """Answers with a dict, as detection and multi-task networks do."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        self.first, self.second = nn.Linear(240, num_classes), nn.Linear(240, num_classes)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = self.stem(inputs)
        return {"first": self.first(features), "second": self.second(features)}


class Flattening(nn.Module):
    """Flattens its features without a copy, which only one layout of them allows."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(240, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stem(inputs)
        return self.head(features.view(features.size(0), -1))


class Copying(Flattening):
    """The same with a copy where one is needed."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.stem(inputs).flatten(1))


class HeadFirst(nn.Module):
    """Defines its head, of a fixed size, before its features; and answers without the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, CLASSES)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.stem(inputs).relu().mean((2, 3))).squeeze()


class TwoNames(nn.Module):
    """Has one layer under two names, as happens in constructors that collect their layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.layers = nn.ModuleList([self.first, nn.BatchNorm2d(6)])
        self.head = nn.Linear(6, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return self.head(inputs.relu().mean((2, 3)))


class Lifted(nn.Module):
    """Normalizes its features as films of one picture: BatchNorm over three dimensions."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm3d(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(inputs).unsqueeze(2)).relu().mean((2, 3, 4)))


class Film(nn.Module):
    """Sees images as films of one picture."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.film = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3)), nn.BatchNorm3d(4), nn.ReLU())
        self.head = nn.Linear(4, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.film(inputs.unsqueeze(2)).mean((2, 3, 4)))


def convolutional(norm: Callable[[int], nn.Module]) -> Factory:
    def build(num_classes: int) -> nn.Module:
        stem = [nn.Conv2d(3, 6, 3, padding=1), norm(6), nn.ReLU()]
        return nn.Sequential(
            *stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)
        )

    return build


def with_head(*head: nn.Module) -> Factory:
    def build(num_classes: int) -> nn.Module:
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Linear(6, num_classes)]
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *pooled)

    return build


def remembering(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every weight and statistic with values that no other layer has."""
    draws = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=draws) + 0.5
            tensor.copy_(values if name.endswith(("var", "weight")) else values - 1)
    return network


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Load a network as users do: its state dict, and the factory that builds the class."""
    import sys
    import types

    def load_one(build: Factory, network: nn.Module | None = None, **options) -> Teacher:
        module = types.ModuleType("somebodys_networks")
        module.build = build  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "somebodys_networks", module)
        network = network or remembering(HeadFirst() if build is HeadFirst else build(CLASSES))
        checkpoint = Checkpoint(tensors=network.state_dict(), metadata={})
        facts = {"architecture": "somebodys_networks:build", "image_size": SIZE} | options
        return teacher_from_checkpoint(checkpoint, **facts)

    return load_one


def dream(teacher: Teacher) -> tuple[Tensor, float]:
    """Make eight dreams in three steps; return their pixels and loss."""
    config = SynthesisConfig(num_images=8, batch_size=8, steps=3, precision="float32")
    engine = Engine(teacher, config.resolve(teacher.spec.image_shape), CPU)
    batch = engine.synthesize(0, 0, 8)
    return batch.dreams.images, batch.terms["total"]


def images_for(teacher: Teacher) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (5, *teacher.spec.image_shape), generator=draws, dtype=torch.uint8)


def test_a_network_in_training_mode_evaluates_and_stays_so(load) -> None:
    build = with_head(nn.BatchNorm1d(6), nn.Dropout(0.5))
    network = remembering(build(CLASSES)).train()
    teacher = load(build, network)
    images = images_for(teacher)
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    inputs = teacher.normalize(images / 255)

    assert not any(module.training for module in teacher.network.modules())
    assert torch.equal(teacher.logits(images), teacher.logits(images))  # dropout draws nothing
    torch.testing.assert_close(teacher.logits(images), network.eval()(inputs))
    dream(teacher)
    after = teacher.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("build", "num_norms"),
    [
        (with_head(nn.BatchNorm1d(6)), 2),
        (with_head(nn.Dropout(0.5)), 1),
        (convolutional(lambda size: nn.BatchNorm2d(size, affine=False)), 1),
        (Lifted, 1),
        (Flattening, 1),
        (HeadFirst, 1),
        (TwoNames, 1),
    ],
    ids=[
        *("BatchNorm1d head", "dropout", "no affine", "BatchNorm3d"),
        *("view", "head first, squeezed", "a layer of two names"),
    ],
)
def test_unusual_layers_are_inverted_reproducibly(load, build: Factory, num_norms: int) -> None:
    teacher = load(build)
    images, loss = dream(teacher)

    assert len(batch_norms(teacher.network)) == num_norms
    assert images.shape == (8, 3, *SIZE)
    assert torch.tensor(loss).isfinite()
    assert torch.equal(dream(teacher)[0], images)


def test_features_are_flattened_in_the_order_that_the_weights_expect(load) -> None:
    network = remembering(Flattening(CLASSES))
    viewed, copied = load(Flattening, network), load(Copying, network)
    images = images_for(viewed)

    assert layout_of(viewed.network) == torch.contiguous_format
    assert layout_of(copied.network) == torch.channels_last
    torch.testing.assert_close(viewed.logits(images), copied.logits(images))
    spec = viewed.spec
    for one, other in (
        (viewed, copied),
        [rescaled(each, spec.mean, [2 * value for value in spec.std]) for each in (viewed, copied)],
    ):
        (_, loss), (_, expected) = dream(one), dream(other)
        assert loss == pytest.approx(expected, rel=1e-3)


def test_what_is_nothing_known_is_described_as_it_is_in_the_file() -> None:
    """And not as the part of it that has names of one beginning."""
    parts = {
        "features": nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)),
        "fc": nn.Linear(6, 2),
    }
    checkpoint = Checkpoint(tensors=nn.ModuleDict(parts).state_dict(), metadata={})

    with pytest.raises(CheckpointError, match=r"has these 9 tensors \('features.0.weight', "):
        teacher_from_checkpoint(checkpoint, suggests=False)  # whose search takes seconds


def test_a_head_that_is_not_defined_last_says_how_many_classes_there_are(load) -> None:
    spec = load(HeadFirst).spec

    assert spec.num_classes == CLASSES


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, nn.SyncBatchNorm])
def test_frozen_and_synchronized_norms_become_plain_ones_with_the_same_answers(
    load, norm: Callable[[int], nn.Module]
) -> None:
    original = remembering(convolutional(norm)(CLASSES)).eval()
    odd = load(convolutional(norm), original)
    plain = load(convolutional(nn.BatchNorm2d), original)
    images = images_for(odd)

    (replaced,) = batch_norms(odd.network).values()
    assert type(replaced) is PlainBatchNorm
    torch.testing.assert_close(odd.logits(images), plain.logits(images))
    assert odd.spec.fingerprint == plain.spec.fingerprint
    assert any(f"1 {norm.__name__} replaced" in text for text in odd.spec.assumptions)
    assert torch.equal(dream(odd)[0], dream(plain)[0])


def test_a_frozen_norms_own_forward_pass_is_the_reference(load) -> None:
    original = remembering(convolutional(FrozenBatchNorm2d)(CLASSES)).eval()
    teacher = load(convolutional(FrozenBatchNorm2d), original)
    images = images_for(teacher)

    expected = original(teacher.normalize(images / 255))
    torch.testing.assert_close(teacher.logits(images), expected)


def test_a_plain_norm_takes_inputs_of_any_number_of_dimensions() -> None:
    norm = PlainBatchNorm(3).eval()

    for shape in [(2, 3), (2, 3, 4), (2, 3, 4, 4), (2, 3, 1, 4, 4)]:
        inputs = torch.ones(shape)
        torch.testing.assert_close(norm(inputs), inputs, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_inverted_as_the_float32_they_stand_for(load, dtype) -> None:
    build = with_head(nn.BatchNorm1d(6))
    half = remembering(build(CLASSES)).to(dtype)
    rounded = remembering(build(CLASSES)).to(dtype).float()

    teacher, same = load(build, half), load(build, rounded)
    assert teacher.spec.fingerprint == same.spec.fingerprint
    assert all(value.dtype == torch.float32 for value in teacher.network.parameters())
    assert torch.equal(dream(teacher)[0], dream(same)[0])


@pytest.mark.parametrize("channels", [1, 4])
def test_grayscale_and_other_channels_that_are_not_square(channels: int) -> None:
    network = build_network("resnet8", num_classes=CLASSES)
    network.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    checkpoint = Checkpoint(tensors=network.state_dict(), metadata={})
    teacher = teacher_from_checkpoint(checkpoint, image_size=(8, 16))

    images, _ = dream(teacher)
    assert images.shape == (8, channels, 8, 16)


@pytest.mark.parametrize("var", [0.0, 1e-30])
def test_a_channel_that_never_varied_is_no_obstacle(load, var: float) -> None:
    build = convolutional(nn.BatchNorm2d)
    network = remembering(build(CLASSES))
    network[1].running_var[2] = var

    images, loss = dream(load(build, network))
    assert torch.tensor(loss).isfinite()
    assert images.shape[0] == 8


@pytest.mark.parametrize(
    ("value", "words"), [(-0.5, "variance of -0.5"), (torch.nan, "NaN"), (torch.inf, "NaN or inf")]
)
def test_impossible_statistics_are_refused(tmp_path: Path, load, value: float, words: str) -> None:
    from shared.checkpoint import load_checkpoint

    build = convolutional(nn.BatchNorm2d)
    network = remembering(build(CLASSES))
    network[1].running_var[1] = value
    path = tmp_path / "teacher.pt"
    torch.save(network.state_dict(), path)

    with pytest.raises(CheckpointError, match=words) as caught:
        load(build, Stored(load_checkpoint(path).tensors))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@dataclasses.dataclass
class Stored:
    """Stands in for a network whose state dict was read from a file."""

    tensors: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (
            lambda num_classes: nn.Sequential(
                *list(convolutional(nn.BatchNorm2d)(num_classes))[:2],
                *list(
                    convolutional(lambda size: nn.BatchNorm2d(size, track_running_stats=False))(
                        num_classes
                    )
                )[1:],
            ),
            CheckpointError,
            "tracks no running statistics",
        ),
        (
            convolutional(lambda size: nn.BatchNorm2d(size, track_running_stats=False)),
            CheckpointError,
            "no BatchNorm statistics",
        ),
        (convolutional(lambda size: nn.Identity()), CheckpointError, "fused into the convolutions"),
        (TwoHeads, ConfigError, "with dict, expected one tensor .* several heads"),
        (Film, CheckpointError, "'film.0' is over three dimensions"),
    ],
    ids=["one without memory", "all without memory", "fused", "two heads", "Conv3d"],
)
def test_what_cannot_be_inverted_is_refused_with_the_reason(load, build, error, words) -> None:
    with pytest.raises(error, match=words) as caught:
        load(build, needs_batch_norm=True)
    assert "\n" not in str(caught.value)
