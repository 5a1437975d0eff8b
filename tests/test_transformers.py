"""Models of transformers and timm, as their libraries save them, against the libraries' answers."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.architectures import build_network, build_skeleton, find_candidate
from shared.architectures.transformers_models import name_of
from shared.at_hand import teacher_at_hand
from shared.checkpoint import Checkpoint, load_checkpoint, save_network
from shared.errors import CheckpointError, ConfigError
from shared.teacher import load_teacher, teacher_from_checkpoint

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

HALF = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1}
HALF |= {"num_attention_heads": 2, "intermediate_size": 32}
SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 32},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 32},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "image_size": 32}
    | {"hidden_dim": 320},
    # Without BatchNorm: no dreams, but students taught on images that are there.
    "vit": {"image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "intermediate_size": 48},
    "deit": {"image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "intermediate_size": 48},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32},
    "swin": {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    | {"window_size": 4},
    "clip": {"vision_config": HALF | {"hidden_act": "gelu"}, "text_config": {"vocab_size": 50}},
}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "eel"}, "label2id": {"cat": 0, "dog": 1, "eel": 2}}


def saved(folder: Path, kind: str, **settings: Any) -> torch.nn.Module:
    """A model with statistics of its own, saved as its library does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **SMALL[kind], **LABELS, **settings)
        config.architectures = []  # of two classes for one type the library takes the first
        model = transformers.AutoModelForImageClassification.from_config(config)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):  # some begin with nothing
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.ones_(module.weight)
                module.momentum = 0.5
        with torch.no_grad():
            for _ in range(8):  # until its statistics are not those of a new network
                model.train()(torch.randn(8, getattr(config, "num_channels", 3), 32, 32))
    model.save_pretrained(folder)
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.4], "size": 32}
    processor |= {"include_top": False}  # for an EfficientNet it means: once divided by std
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model.eval()


def some_images(num_channels: int = 3) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, num_channels, 32, 32), dtype=torch.uint8, generator=draws)


@pytest.mark.parametrize("kind", SMALL)
def test_a_folder_answers_as_in_its_own_library(kind: str, tmp_path: Path) -> None:
    model, images = saved(tmp_path, kind), some_images()
    teacher = load_teacher(tmp_path)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.3, 0.2, 0.4]))
    with torch.no_grad():
        expected = model((images / 255 - mean) / std).logits

    assert teacher.spec.assumptions == ()
    assert teacher.spec.class_names == ("cat", "dog", "eel")
    assert teacher.spec.image_shape == (3, 32, 32)
    assert torch.allclose(teacher.logits(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std(0).min() > 0.01  # so that another network would be noticed


@pytest.mark.parametrize("kind", SMALL)
def test_the_name_alone_builds_the_same_network(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, kind)
    teacher = load_teacher(tmp_path)
    again = build_network(teacher.spec.architecture, num_classes=3)

    assert find_candidate(teacher.spec.architecture).name == teacher.spec.architecture
    again.load_state_dict(teacher.network.state_dict())
    inputs = teacher.normalize(some_images() / 255)
    assert torch.allclose(again.eval()(inputs), teacher.network(inputs))


def test_defaults_are_not_in_the_name(tmp_path: Path) -> None:
    saved(tmp_path, "resnet", hidden_act="gelu")
    name = load_teacher(tmp_path).spec.architecture

    assert name.startswith("transformers:resnet{")
    assert json.loads(name.removeprefix("transformers:resnet")) == {
        **SMALL["resnet"],
        "hidden_act": "gelu",
    }


def test_gray_images(tmp_path: Path) -> None:
    model = saved(tmp_path, "resnet", num_channels=1)
    (tmp_path / "preprocessor_config.json").unlink()
    teacher = load_teacher(tmp_path, image_size=32, mean=[0.5], std=[0.5])
    images = some_images(1)

    assert teacher.spec.image_shape == (1, 32, 32)
    with torch.no_grad():
        expected = model((images / 255 - 0.5) / 0.5).logits
    assert torch.allclose(teacher.logits(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_pruned_student_goes_back_into_the_folder(kind: str, tmp_path: Path) -> None:
    saved(tmp_path / "mine", kind)
    teacher = load_teacher(tmp_path / "mine")
    with torch.no_grad():
        for parameter in teacher.network.parameters():
            parameter[parameter.abs() < 0.1] = 0
    shutil.copytree(tmp_path / "mine", tmp_path / "small")
    save_network(tmp_path / "small" / "model.safetensors", teacher.network, {})
    student = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "small")

    inputs = teacher.normalize(some_images() / 255)
    with torch.no_grad():
        assert torch.allclose(student.eval()(inputs).logits, teacher.network(inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("vit.layernorm.bias"), r"vit\.layernorm\.bias is missing"),
        (lambda tensors: tensors.update(more=torch.zeros(2)), "'more' is too many"),
        (
            lambda tensors: tensors.update({"vit.layernorm.bias": torch.zeros(7)}),
            r"vit\.layernorm\.bias is \(7,\), expected \(24,\)",
        ),
    ],
)
def test_what_is_wrong_in_a_file_of_older_names_is_named(
    change: Any, message: str, tmp_path: Path
) -> None:
    saved(tmp_path, "vit")
    tensors = load_file(tmp_path / "model.safetensors")
    older = "vit.encoder.layer.0.output.dense.bias"
    assert older in tensors
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    if older in transformers.AutoModelForImageClassification.from_config(config).state_dict():
        pytest.skip("in this version of transformers these names are not older")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(CheckpointError, match=message):
        load_teacher(tmp_path)


def test_one_tensor_of_half_the_bits_does_not_round_the_others(tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    before = load_teacher(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    first = next(iter(tensors))
    torch.save(tensors | {first: tensors[first].half()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    after = load_teacher(tmp_path)

    assert after.spec.assumptions == ("weights stored as float16 were converted to float32",)
    rounded = [
        name
        for name, tensor in before.network.state_dict().items()
        if not torch.equal(tensor, after.network.state_dict()[name])
    ]
    assert len(rounded) <= 1


@pytest.mark.parametrize(
    ("setting", "value"), [("num_hidden_layers", 10**9), ("num_attention_heads", 0)]
)
def test_settings_that_cannot_be_are_the_files_fault(
    setting: str, value: int, tmp_path: Path
) -> None:
    saved(tmp_path, "vit")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {setting: value}))

    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*transformers"):
        load_teacher(tmp_path)


def test_several_findings_are_sigmoids(tmp_path: Path) -> None:
    saved(tmp_path, "resnet", problem_type="multi_label_classification")
    spec = load_teacher(tmp_path).spec

    assert spec.answers == "sigmoid"
    assert spec.class_names == ("none", "cat", "dog", "eel")


def test_the_usual_size_may_have_two_sides() -> None:
    assert find_candidate('transformers:vit{"image_size":[32,48]}').usual().size == (32, 48)
    assert find_candidate('transformers:vit{"image_size":[32,"x"]}').usual().size == (
        224,
        224,
    )


def test_null_is_a_setting_where_it_is_not_the_default() -> None:
    name = name_of({"model_type": "convnext", "hidden_sizes": None, "drop_path_rate": 0.0})
    assert find_candidate(name).name == 'transformers:convnext{"hidden_sizes":null}'


def test_settings_of_no_such_field_do_nothing() -> None:
    name = 'transformers:resnet{"trust_remote_code":true,"depths":[1,1],"hidden_sizes":[8,8]}'
    assert find_candidate(name).name == 'transformers:resnet{"depths":[1,1],"hidden_sizes":[8,8]}'


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformers:no_such_model", "has no image classifier of the type 'no_such_model'"),
        ("transformers:bert", "has no image classifier of the type 'bert'"),
        ('transformers:resnet{"hidden_act":"no_such"}', "cannot build"),
        ('transformers:resnet{"depths":"x"}', "cannot build"),
        ('transformers:clip{"vision_config":{"num_hidden_layers":1000000}}', "expected at most"),
        ('transformers:efficientnet{"num_block_repeats":[1,1000000000]}', "expected at most"),
        ('transformers:efficientnet{"depth_coefficient":1e9}', "expected at most"),
        ('transformers:imagegpt{"n_layer":1000000}', "expected at most"),
        ('transformers:perceiver{"num_self_attends_per_block":1000000}', "expected at most"),
        ('transformers:timm_wrapper{"architecture":"hf-hub:a/b"}', "expected timm:NAME instead"),
    ],
)
def test_what_the_library_does_not_know_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        find_candidate(name).build(3)
    assert "\n" not in str(found.value)


def test_a_folder_of_timm(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", num_classes=3)
    usual = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.4), "input_size": (3, 32, 32)}
    importlib.import_module("timm.models._hub").save_for_hf(
        model,
        str(tmp_path),
        model_config={"pretrained_cfg": usual, "label_names": ["cat", "dog", "eel"]},
        safe_serialization=True,
    )
    record = json.loads((tmp_path / "config.json").read_text())
    record |= {"pretrained_cfg": usual, "label_names": ["cat", "dog", "eel"]}
    (tmp_path / "config.json").write_text(json.dumps(record))
    teacher = load_teacher(tmp_path)

    assert teacher.spec.architecture == "timm:resnet10t"
    assert teacher.spec.class_names == ("cat", "dog", "eel")
    assert teacher.spec.mean == (0.5, 0.4, 0.3)
    inputs = teacher.normalize(some_images() / 255)
    with torch.no_grad():
        assert torch.allclose(model.eval()(inputs), teacher.network(inputs), atol=1e-5)
    assert load_checkpoint(tmp_path).path == tmp_path / "model.safetensors"


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_at_hand_says_what_it_is(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path, kind)
    with teacher_at_hand(model, image_size=32, mean=(0.5,), std=(0.3,)) as teacher:
        assert teacher.spec.architecture.startswith(f"transformers:{kind}")
        assert teacher.spec.class_names == ("cat", "dog", "eel")
        inputs = teacher.normalize(some_images().float() / 255)
        with torch.no_grad():
            assert torch.allclose(teacher.network(inputs), model(inputs).logits, atol=1e-5)


def test_somebodys_subclass_of_a_model_is_taken_for_itself(tmp_path: Path) -> None:
    model = saved(tmp_path, "resnet")

    class Doubled(type(model)):  # type: ignore[misc]
        def forward(self, *given: Any, **named: Any) -> Any:
            answer = super().forward(*given, **named)
            answer.logits = 2 * answer.logits
            return answer

    model.__class__ = Doubled
    with teacher_at_hand(model, image_size=32, mean=(0.5,), std=(0.3,)) as teacher:
        assert teacher.spec.architecture.endswith("Doubled")
        inputs = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(teacher.network(inputs), model(inputs).logits)


def test_a_gray_model_of_timm_at_hand_has_no_use_for_three_means() -> None:
    model = timm.create_model("resnet10t", num_classes=3, in_chans=1).eval()
    with teacher_at_hand(model, image_size=32) as teacher:
        assert teacher.spec.architecture == "timm:resnet10t"
        assert len(teacher.spec.mean) == len(teacher.spec.std) == 1
        assert any("found 3 numbers for 1 channels" in text for text in teacher.spec.assumptions)


def test_a_model_of_timm_at_hand_is_shown_what_its_dreams_were_made_with() -> None:
    model = timm.create_model("resnet10t", num_classes=3).eval()
    with teacher_at_hand(model, image_size=32, mean=(0.1,), std=(0.9,)) as teacher:
        recorded = teacher.spec
    with teacher_at_hand(model, spec=recorded) as teacher:
        assert teacher.spec.image_shape == (3, 32, 32)
        assert (teacher.spec.mean, teacher.spec.std) == ((0.1,) * 3, (0.9,) * 3)


def test_another_image_size_than_timm_builds_is_told_what_to_do() -> None:
    name = "timm:vit_tiny_patch16_224"
    tensors = build_skeleton(lambda: build_network(name, num_classes=3)).state_dict()
    tensors["pos_embed"] = torch.zeros(1, 5, 192)
    message = r"pos_embed is \(1, 5, 192\), expected .*another image size.*--arch package\.module"
    with pytest.raises(CheckpointError, match=message):
        teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}), architecture=name)


def test_a_model_of_timm_at_hand_brings_its_preprocessing() -> None:
    model = timm.create_model("efficientnet_lite0", num_classes=3).eval()
    with teacher_at_hand(model) as teacher:
        assert teacher.spec.architecture == "timm:efficientnet_lite0"
        assert teacher.spec.mean == pytest.approx(model.pretrained_cfg["mean"])
        assert teacher.spec.image_shape == model.pretrained_cfg["input_size"]
