"""A teacher is found, described, frozen and identified the same way from any file."""

from pathlib import Path

import pytest
import torch
from torch import nn

from shared.architectures import build_network
from shared.checkpoint import Checkpoint, checkpoint_from_bytes, save_network, to_safetensors
from shared.errors import CheckpointError, ConfigError
from shared.spec import TeacherSpec
from shared.teacher import (
    Teacher,
    batch_norms,
    fingerprint,
    load_teacher,
    teacher_from_checkpoint,
)


def checkpoint_of(network: nn.Module, **metadata: object) -> Checkpoint:
    return Checkpoint(tensors=network.state_dict(), metadata=metadata)


def make_spec(**changes: object) -> TeacherSpec:
    facts = {
        "architecture": "resnet8",
        "num_classes": 10,
        "image_shape": (3, 16, 24),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "fingerprint": "0" * 64,
    }
    return TeacherSpec(**(facts | changes))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_bare_state_dict_of_resnet50_becomes_torchvisions_network(tmp_path: Path) -> None:
    network = build_network("resnet50", num_classes=5)
    path = tmp_path / "weights.pt"
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, path)

    teacher = load_teacher(path)

    assert type(teacher.network) is type(network)
    state = teacher.network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())
    assert teacher.spec.architecture == "resnet50"
    assert teacher.spec.image_shape == (3, 224, 224)
    assert teacher.spec.mean == (0.485, 0.456, 0.406)
    assert any("--image-size" in sentence for sentence in teacher.spec.assumptions)
    assert any("--mean" in sentence for sentence in teacher.spec.assumptions)


def test_the_network_is_frozen_and_evaluates() -> None:
    teacher = teacher_from_checkpoint(checkpoint_of(build_network("resnet8", num_classes=10)))

    assert not any(module.training for module in teacher.network.modules())
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert not any(t.is_meta for t in teacher.network.state_dict().values())


def test_the_tensors_of_the_checkpoint_are_copied() -> None:
    checkpoint = checkpoint_of(build_network("resnet8", num_classes=10))
    teacher = teacher_from_checkpoint(checkpoint)

    checkpoint.tensors["conv1.weight"].fill_(7)

    assert not (teacher.network.get_parameter("conv1.weight") == 7).any()


def test_fingerprints_agree_between_formats_and_change_with_one_weight(tmp_path: Path) -> None:
    network = build_network("resnet8", num_classes=10)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    save_network(tmp_path / "a.safetensors", network, {})
    old = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    torch.save(old, tmp_path / "old.th")

    prints = {
        load_teacher(tmp_path / name).spec.fingerprint
        for name in ("a.pt", "a.safetensors", "old.th")
    }

    assert prints == {fingerprint(network)}
    assert fingerprint(network.state_dict()) == fingerprint(network)
    with torch.no_grad():
        network.get_parameter("linear.bias")[3] += 1e-6
    assert fingerprint(network) not in prints


def test_fingerprints_tell_names_and_shapes_apart() -> None:
    flat = {"a": torch.arange(4.0)}

    assert fingerprint(flat) != fingerprint({"b": torch.arange(4.0)})
    assert fingerprint(flat) != fingerprint({"a": torch.arange(4.0).view(2, 2)})


def test_metadata_of_our_own_files_leaves_nothing_to_assume() -> None:
    network = build_network("resnet8", num_classes=3, in_channels=1)
    for norm in batch_norms(network).values():  # as if it had seen images
        norm.running_mean.fill_(0.1)
    spec = make_spec(
        num_classes=3,
        image_shape=(1, 8, 12),
        mean=(0.3,),
        std=(0.4,),
        class_names=("a", "b", "c"),
        fingerprint=fingerprint(network),
    )
    blob = to_safetensors(network, spec.to_json())

    assert teacher_from_checkpoint(checkpoint_from_bytes(blob, "dreams.h5")).spec == spec


def test_arguments_come_before_metadata_and_say_so() -> None:
    checkpoint = checkpoint_of(
        build_network("resnet8", num_classes=10), mean=[0.5, 0.5, 0.5], image_shape=[3, 32, 32]
    )

    spec = teacher_from_checkpoint(
        checkpoint, mean=(0.1, 0.2, 0.3), std=[0.25], image_size=(16, 24)
    ).spec

    assert spec.mean == (0.1, 0.2, 0.3)
    assert spec.std == (0.25, 0.25, 0.25)
    assert spec.image_shape == (3, 16, 24)
    assert [s for s in spec.assumptions if s.startswith("mean:")]
    assert [s for s in spec.assumptions if s.startswith("image size:")]


def test_what_a_dream_set_recorded_fills_the_gaps() -> None:
    recorded = make_spec(class_names=tuple("abcdefghij"))
    checkpoint = checkpoint_of(build_network("resnet8", num_classes=10), mean=[0.7, 0.7, 0.7])

    spec = teacher_from_checkpoint(checkpoint, spec=recorded).spec

    assert spec.mean == (0.7, 0.7, 0.7)
    assert (spec.std, spec.image_shape) == (recorded.std, recorded.image_shape)
    assert spec.class_names == recorded.class_names
    assert spec.fingerprint != recorded.fingerprint  # of these weights, not of those


def test_what_a_set_of_these_weights_says_comes_before_what_is_usual_for_them() -> None:
    network = build_network("resnet8", num_classes=10)
    usual = {"mean": [0.7] * 3, "std": [0.7] * 3, "image_size": 24, "answers": "sigmoid"}
    checkpoint = checkpoint_of(network, **usual)
    recorded = make_spec(fingerprint=fingerprint(network))

    spec = teacher_from_checkpoint(checkpoint, spec=recorded).spec

    assert (spec.mean, spec.std, spec.image_shape) == (
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
        (3, 16, 24),
    )
    assert spec.answers == "softmax"
    given = teacher_from_checkpoint(checkpoint, spec=recorded, mean=(0.2,)).spec
    assert given.mean == (0.2,) * 3  # explicit arguments come before all
    of_others = teacher_from_checkpoint(checkpoint, spec=make_spec()).spec
    assert of_others.mean == (0.7,) * 3


def test_nonsense_in_metadata_is_passed_over_with_a_note() -> None:
    network = build_network("resnet8", num_classes=10)
    checkpoint = checkpoint_of(
        network, mean="x", std=[0, 1, 1], image_shape=[3, 0, 8], class_names=["a"], arch="ResNet"
    )

    spec = teacher_from_checkpoint(checkpoint).spec

    assert (spec.architecture, spec.image_shape) == ("resnet8", (3, 32, 32))
    assert spec.class_names is None
    for word in ("mean", "std", "image_shape", "class names"):
        assert any("ignored" in s and word in s for s in spec.assumptions), word


def test_other_channel_counts_get_neutral_preprocessing_aloud() -> None:
    spec = teacher_from_checkpoint(
        checkpoint_of(build_network("resnet8", num_classes=10, in_channels=2))
    ).spec

    assert spec.image_shape == (2, 32, 32)
    assert spec.mean == spec.std == (0.5, 0.5)
    assert any("for want of better" in sentence for sentence in spec.assumptions)


def test_half_precision_weights_become_float32_aloud() -> None:
    network = build_network("resnet8", num_classes=10).half()

    teacher = teacher_from_checkpoint(checkpoint_of(network))

    assert {p.dtype for p in teacher.network.parameters()} == {torch.float32}
    assert "weights stored as float16 were converted to float32" in teacher.spec.assumptions


def test_code_named_by_a_file_is_not_imported() -> None:
    network = build_network("resnet8", num_classes=10)

    for source in (
        {"checkpoint": checkpoint_of(network, architecture="os:getcwd")},
        {"checkpoint": checkpoint_of(network), "spec": make_spec(architecture="os:getcwd")},
    ):
        with pytest.raises(CheckpointError, match="--arch os:getcwd"):
            teacher_from_checkpoint(**source)  # type: ignore[arg-type]


def test_a_network_of_ones_own_is_loaded_through_its_factory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my_wrapped_network.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4),\n"
        "            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))\n"
        "    def forward(self, x):\n"
        "        return self.model(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = build_network("my_wrapped_network:Mine", num_classes=6)
    path = tmp_path / "mine.pt"
    torch.save({"state_dict": network.state_dict()}, path)

    teacher = load_teacher(path, architecture="my_wrapped_network:Mine", image_size=8)

    assert teacher.spec.num_classes == 6
    assert fingerprint(teacher.network) == fingerprint(network)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (0, ["no image"]),
        (1, ["one batch of images"]),
        (4, ["4 batches of images"]),
        (5, []),
        (None, []),
    ],
)
def test_a_network_that_is_hardly_trained_is_doubted(batches: int | None, words: list[str]) -> None:
    network = build_network("resnet8", num_classes=10).train()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(1 if batches is None else batches):
            network(images)
    tensors = network.state_dict()
    if batches is None:  # as in old files
        tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}

    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={})).spec

    doubts = [sentence for sentence in spec.assumptions if "have seen" in sentence]
    assert [sentence.partition(" have seen ")[2] for sentence in doubts] == words


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"architecture": "resnet20"}, CheckpointError, "resnet20: .* missing"),
        ({"architecture": "resnet_8"}, ConfigError, "resnet8"),
        ({"image_size": 0}, ConfigError, "--image-size"),
        ({"mean": (0.1, 0.2)}, ConfigError, "--mean: found 2 numbers, expected 3"),
        ({"std": (0.1, 0.2, 0.0)}, ConfigError, "found.* from 1e-06 to"),
        ({"class_names": ["cat"]}, ConfigError, "found 1, expected 10"),
    ],
)
def test_wrong_options_are_one_line(
    options: dict[str, object], error: type[Exception], words: str
) -> None:
    checkpoint = checkpoint_of(build_network("resnet8", num_classes=10))

    with pytest.raises(error, match=words) as caught:
        teacher_from_checkpoint(checkpoint, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_images_too_small_for_the_network_are_refused() -> None:
    checkpoint = checkpoint_of(build_network("cifar_vgg11_bn", num_classes=10))

    with pytest.raises(ConfigError, match=r"8x8.*--image-size") as caught:
        teacher_from_checkpoint(checkpoint, image_size=8)
    assert "\n" not in str(caught.value)


def test_a_file_cannot_make_the_check_of_its_image_size_use_memory() -> None:
    network = build_network("resnet8", num_classes=10)
    checkpoint = checkpoint_of(network, image_shape=[3, 16384, 16384])

    assert teacher_from_checkpoint(checkpoint).spec.image_shape == (3, 16384, 16384)


def test_a_checkpoint_without_batch_norm_is_refused_whatever_arch_says() -> None:
    checkpoint = checkpoint_of(nn.Linear(3, 3))

    with pytest.raises(CheckpointError, match="BatchNorm"):
        teacher_from_checkpoint(checkpoint, architecture="resnet18", needs_batch_norm=True)


def test_normalize_and_denormalize_are_inverse_and_follow_the_definition() -> None:
    network = build_network("resnet8", num_classes=10)
    teacher = Teacher(network=network, spec=make_spec())
    pixels = torch.full((1, 3, 2, 2), 0.5)

    inputs = teacher.normalize(pixels)

    expected = torch.tensor([0.4 / 0.4, 0.3 / 0.5, 0.2 / 0.6])
    torch.testing.assert_close(inputs[0, :, 0, 0], expected)
    torch.testing.assert_close(teacher.denormalize(inputs), pixels)


def test_logits_do_not_depend_on_the_batch_size() -> None:
    teacher = teacher_from_checkpoint(checkpoint_of(build_network("resnet8", num_classes=10)))
    images = torch.arange(5 * 3 * 32 * 32).remainder(251).to(torch.uint8).view(5, 3, 32, 32)

    logits = teacher.logits(images)

    assert logits.dtype == torch.float32
    assert logits.shape == (5, 10)
    torch.testing.assert_close(teacher.logits(images, batch_size=2), logits)
    expected = teacher.network(teacher.normalize(images / 255))
    torch.testing.assert_close(logits, expected)


def test_batch_norms_are_those_that_remember_in_order_of_definition() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm1d(3)
    )

    assert list(batch_norms(network)) == ["0", "2"]
    assert list(batch_norms(build_network("resnet8", num_classes=2)))[:2] == ["bn1", "layer1.0.bn1"]
