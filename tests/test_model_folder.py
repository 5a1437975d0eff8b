"""What the two JSON files of a model folder say; neither library is needed to read them."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.architectures import build_network, transformers_images, transformers_models
from shared.checkpoint import load_checkpoint, to_safetensors
from shared.errors import CheckpointError, ConfigError
from shared.model_folder import facts_beside, weights_in
from shared.teacher import load_teacher

RESNET = {"model_type": "resnet", "depths": [1, 1], "id2label": {"0": "cat", "1": "dog"}}


@pytest.fixture(autouse=True)
def _without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its image processors have a say where they are there: tests/test_transformers_images.py."""
    monkeypatch.setattr(transformers_images, "is_installed", lambda: False)


def folder_of(folder: Path, config: Any = None, images: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    weights = to_safetensors(build_network("resnet8", num_classes=4), {})
    (folder / "model.safetensors").write_bytes(weights)
    for name, record in (("config.json", config), ("preprocessor_config.json", images)):
        if record is not None:
            (folder / name).write_text(json.dumps(record))
    return folder / "model.safetensors"


def facts_of(folder: Path, config: Any, images: Any = None) -> dict[str, Any]:
    return facts_beside(folder_of(folder, config, images))[0]


def test_safetensors_are_preferred_to_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    assert weights_in(tmp_path).name == "pytorch_model.bin"
    (tmp_path / "model.safetensors").touch()
    assert weights_in(tmp_path).name == "model.safetensors"


@pytest.mark.parametrize(
    ("there", "found"),
    [("config.json", "none of them"), ("model.safetensors.index.json", "the index of a file in")],
)
def test_a_folder_without_weights_is_one_line(tmp_path: Path, there: str, found: str) -> None:
    (tmp_path / there).touch()
    with pytest.raises(CheckpointError, match=f"a folder with model.safetensors or .*{found}"):
        load_checkpoint(tmp_path)


def test_a_model_of_transformers_says_what_it_is(tmp_path: Path) -> None:
    config = RESNET | {"problem_type": "multi_label_classification", "dtype": "float32"}
    facts = facts_of(tmp_path, config)

    assert facts == {
        "architecture": 'transformers:resnet{"depths":[1,1]}',
        "class_names": ["cat", "dog"],
        "answers": "sigmoid",
    }


def test_names_that_nobody_gave_are_none(tmp_path: Path) -> None:
    invented = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    for labels in (invented, {"id2label": {"0": "cat", "2": "dog"}}, {"id2label": {}}):
        assert "class_names" not in facts_of(tmp_path, RESNET | labels) or labels == {
            "id2label": {}
        }


@pytest.mark.parametrize(
    "images",
    [
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255},
        {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 127.5}
        | {"rescale_offset": True},
        {"image_mean": [123.0] * 3, "image_std": [58.0] * 3, "do_rescale": False},
        {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "do_normalize": False},
        {"image_mean": [0.4] * 3, "image_std": [0.2, 0.3, 0.4], "include_top": True},
    ],
    ids=["usual", "factor", "offset", "bytes", "plain", "twice"],
)
def test_mean_and_std_are_of_what_the_library_computes(
    tmp_path: Path, images: dict[str, Any]
) -> None:
    """Step by step, as its image processors do: rescale, normalise, once more for some."""
    facts = facts_of(tmp_path, RESNET, images)
    pixels = torch.rand(3, dtype=torch.float64)

    values = pixels * 255
    if images.get("do_rescale", True):
        values = values * images.get("rescale_factor", 1 / 255)
        values = values - (1 if images.get("rescale_offset") else 0)
    if images.get("do_normalize", True):
        std = torch.tensor(images["image_std"], dtype=torch.float64)
        values = (values - torch.tensor(images["image_mean"], dtype=torch.float64)) / std
        values = values / std if images.get("include_top") else values

    mean, std = (torch.tensor(facts[name], dtype=torch.float64) for name in ("mean", "std"))
    assert torch.allclose((pixels - mean) / std, values, atol=1e-12)


@pytest.mark.parametrize(
    ("images", "size"),
    [
        ({"size": 96}, [96, 96]),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, [64, 64]),
        ({"size": {"height": 48, "width": 64}}, [48, 64]),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 192}}, [224, 192]),
        ({"size": 256, "crop_size": 224, "do_center_crop": False}, [256, 256]),
        ({"size": {"longest_edge": 4}}, None),
        ({}, None),
    ],
)
def test_the_size_is_that_of_what_the_network_sees(
    tmp_path: Path, images: dict[str, Any], size: list[int] | None
) -> None:
    found = facts_of(tmp_path, RESNET, images).get("image_shape")
    assert found == (None if size is None else [3, *size])


def test_timm_writes_its_own_way(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    usual = {"mean": [0.5] * 3, "std": [0.2] * 3, "input_size": [3, 96, 128]}
    expected = {
        "architecture": "timm:resnet18",
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "image_shape": [3, 96, 128],
        "class_names": ["cat", "dog"],
    }
    for config in (
        {"architecture": "resnet18", "label_names": ["cat", "dog"], "pretrained_cfg": usual},
        {"architecture": "resnet18", "label_names": ["cat", "dog"], **usual},
        {"architecture": "resnet18", "model_type": "timm_wrapper", "pretrained_cfg": usual}
        | {"id2label": {"0": "cat", "1": "dog"}},
    ):
        assert facts_of(tmp_path, config) == expected
    arguments = {"num_classes": 2, "in_chans": 3, "drop_rate": 0.1, "act_layer": "silu"}
    _, passed_over = facts_beside(folder_of(tmp_path, config | {"model_args": arguments}))
    assert passed_over == (
        "config.json builds it with act_layer, drop_rate, which was passed over",
    )


def without_timm(name: str, *arguments: Any) -> Any:
    return None if name == "timm" else find_spec(name, *arguments)


def test_without_timm_the_tensors_may_tell(tmp_path: Path, monkeypatch: Any) -> None:
    folder_of(tmp_path, {"architecture": "resnet8", "mean": [0.1] * 3, "std": [0.2] * 3})
    monkeypatch.setattr("importlib.util.find_spec", without_timm)
    spec = load_teacher(tmp_path, image_size=8).spec

    assert (spec.architecture, spec.mean) == ("resnet8", (0.1,) * 3)
    assert "config.json says timm:resnet8, and timm is not installed" in spec.assumptions[0]


def test_without_timm_the_error_says_what_would_help(tmp_path: Path, monkeypatch: Any) -> None:
    folder_of(tmp_path, {"architecture": "resnet10t"})
    blocks = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    (tmp_path / "model.safetensors").write_bytes(to_safetensors(blocks, {}))
    monkeypatch.setattr("importlib.util.find_spec", without_timm)
    with pytest.raises(CheckpointError, match=r"timm is not installed \(pip install timm\)$"):
        load_teacher(tmp_path, suggests=False)  # whose search takes seconds


def test_what_makes_no_sense_is_passed_over(tmp_path: Path) -> None:
    broken = (None, 3, "x", [], {}, [None], {"a": [1]}, float("inf"), -1, True, [10**400])
    broken += (10**400,)  # what JSON may hold, and no float
    for value in broken:
        for key in ("id2label", "problem_type", "architecture", "model_type", "pretrained_cfg"):
            facts_of(tmp_path, RESNET | {key: value} if key != "architecture" else {key: value})
        facts_of(tmp_path, RESNET | {"depths": value})
        for key in ("image_mean", "image_std", "rescale_factor", "size", "crop_size"):
            images = {"image_mean": [0.5], "image_std": [0.5], "size": 8} | {key: value}
            facts_of(tmp_path, RESNET, images)
    for text in ("", "[]", "{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        assert facts_beside(tmp_path / "model.safetensors") == ({}, ())


def test_a_mean_with_something_else_in_it_is_no_mean(tmp_path: Path) -> None:
    for mean in ([0.5, "x", 0.5], [0.5, None], "0.5", {"r": 0.5}, []):
        facts = facts_of(tmp_path, RESNET, {"image_mean": mean, "image_std": [0.5] * 3})
        assert facts.keys() == {"architecture", "class_names"}


def test_only_files_named_as_in_a_model_folder_ask_their_neighbours(tmp_path: Path) -> None:
    weights = folder_of(tmp_path, RESNET)
    other = weights.rename(tmp_path / "epoch_90.safetensors")

    assert facts_beside(other) == ({}, ())
    assert load_teacher(other, image_size=8).spec.architecture == "resnet8"


def test_what_a_file_says_of_itself_counts_more(tmp_path: Path) -> None:
    folder_of(tmp_path, RESNET, {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": 16})
    network = build_network("resnet8", num_classes=4)
    record = {"architecture": "resnet8", "mean": [0.3] * 3, "std": [0.4] * 3}
    (tmp_path / "model.safetensors").write_bytes(to_safetensors(network, record))

    spec = load_teacher(tmp_path).spec
    assert (spec.architecture, spec.mean, spec.std) == ("resnet8", (0.3,) * 3, (0.4,) * 3)
    assert spec.image_shape == (3, 16, 16)


def test_names_are_settings_in_order_and_nothing_else() -> None:
    config = {"b": 1, "a": [1, "x"], "model_type": "resnet", "_name_or_path": "/home/me", "c": {}}
    config |= {"auto_map": "theirs.py", "transformers_version": "9"}

    assert transformers_models.name_of(config) == 'transformers:resnet{"a":[1,"x"],"b":1}'


def test_settings_within_settings_are_in_the_name_as_far_as_anybody_writes_them() -> None:
    half = {"hidden_act": "gelu", "_name_or_path": "/home/me", "model_type": "x", "id2label": {}}
    deep = {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}
    config = {"model_type": "clip", "vision_config": half, "text_config": {}, "deep": deep}

    name = 'transformers:clip{"vision_config":{"hidden_act":"gelu"}}'
    assert transformers_models.name_of(config) == name


@pytest.mark.parametrize(
    "name",
    ["transformers:", "transformers:resnet{", "transformers:../x", 'transformers:resnet{"a":1}x'],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected transformers:MODEL_TYPE and settings"):
        transformers_models.find_model(name)
