"""What becomes of pixels, against what the image processors of transformers make of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shared.architectures.candidate import IMAGENET_MEAN
from shared.architectures.transformers_images import scaling_of
from shared.architectures.transformers_models import find_model
from shared.errors import CheckpointError
from shared.facts import Facts
from shared.model_folder import facts_in
from shared.teacher import load_teacher

transformers = pytest.importorskip("transformers")

of_later_versions = pytest.mark.skipif(
    "pp_lcnet" not in transformers.CONFIG_MAPPING, reason="this transformers is older than that"
)
HALVES: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.4]}
RECORDS: list[Any] = [
    ("vit", {}),
    ("vit", {"do_normalize": False}),
    ("resnet", HALVES),
    ("resnet", HALVES | {"rescale_offset": True, "include_top": True}),  # which it passes over
    ("resnet", HALVES | {"image_processor_type": "ViTImageProcessorFast"}),
    ("resnet", HALVES | {"feature_extractor_type": "ViTFeatureExtractor", "do_rescale": False}),
    ("vit", HALVES | {"do_normalize": None}),  # none, and not the default
    ("vit", HALVES | {"do_rescale": None}),
    ("efficientnet", HALVES),  # include_top, where nothing says it
    ("efficientnet", HALVES | {"include_top": False}),
    ("efficientnet", HALVES | {"do_normalize": False}),
    ("efficientnet", HALVES | {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ("mobilevit", {}),
    ("mobilevit", HALVES | {"do_normalize": True}),  # which it passes over
    ("mobilevit", HALVES | {"do_flip_channel_order": False}),
    pytest.param("pp_lcnet", {}, marks=of_later_versions),  # whose swap no record says
    ("segformer", {}),
]


def some_image() -> Image.Image:
    numbers = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(numbers)


@pytest.mark.filterwarnings("ignore:The following named arguments are not valid")
@pytest.mark.parametrize(("kind", "record"), RECORDS)
def test_the_inputs_are_those_of_the_library(
    kind: str, record: dict[str, Any], tmp_path: Path
) -> None:
    whole = record | {"do_resize": False, "do_center_crop": False}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(whole))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = torch.as_tensor(np.asarray(processor(images=some_image())["pixel_values"]))[0]

    scaling, remark = scaling_of(kind, record)
    assert scaling is not None
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (scaling.mean, scaling.std))
    ours = (torch.tensor(np.array(some_image())).permute(2, 0, 1) / 255 - mean) / std
    assert remark == ""
    assert torch.allclose(ours.flip(0) if scaling.is_swapped else ours, theirs.float(), atol=1e-5)


def test_what_is_no_mean_and_std_is_said() -> None:
    assert scaling_of("siglip2", {}) == (
        None,
        "what Siglip2ImageProcessor makes of pixels is no mean and std",
    )


def test_of_what_the_library_does_not_take_the_numbers_are_believed_aloud() -> None:
    facts, remarks = facts_in(
        {"model_type": "vit"}, HALVES | {"image_processor_type": "NoSuchProcessor"}
    )
    assert (facts["mean"], facts["std"]) == (HALVES["image_mean"], HALVES["image_std"])
    assert "transformers has no image processor that takes it" in remarks[0]


@pytest.mark.parametrize("kind", ["mobilevit", pytest.param("pp_lcnet", marks=of_later_versions)])
def test_a_folder_whose_images_have_red_and_blue_swapped_is_one_line(
    kind: str, tmp_path: Path
) -> None:
    torch.save({"conv.weight": torch.ones(2, 3, 1, 1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
    with pytest.raises(CheckpointError, match=r"blue, green and red, expected .*factory$") as found:
        load_teacher(tmp_path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("kind", "mean", "words"),
    [
        ("vit", (0.5,) * 3, "the usual ones of transformers:vit"),
        ("levit", IMAGENET_MEAN, "the usual ones of transformers:levit"),
        ("hgnet_v2", IMAGENET_MEAN, "a guess, since transformers has no mean and std for"),
        pytest.param(
            *("mobilevit", (0.0,) * 3, "hands it blue, green and red, though"),
            marks=of_later_versions,  # others normalise
        ),
    ],
)
def test_without_a_record_they_are_those_of_the_types_processor(
    kind: str, mean: tuple[float, ...], words: str
) -> None:
    facts = Facts({}, {}, None)
    assert facts.normalization(find_model(f"transformers:{kind}"), 3)[0] == pytest.approx(mean)
    assert words in facts.notes[0]
