"""Networks that flatten what is left of an image take one size, which is found."""

import sys
from pathlib import Path

import pytest

from shared.architectures import build_network
from shared.checkpoint import Checkpoint
from shared.errors import ConfigError
from shared.teacher import teacher_from_checkpoint


def flattening(side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """Return weights of a network, ``flattening:make``, for images of one side or a pixel more."""
    (tmp_path / "flattening.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(),\n"
        f"        nn.MaxPool2d(2), nn.Flatten(), nn.Linear({2 * (side // 2) ** 2}, 5))\n"
    )
    monkeypatch.delitem(sys.modules, "flattening", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return weights()


@pytest.mark.parametrize("side", [28, 48, 150])
def test_a_network_that_flattens_tells_its_image_size(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = flattening(side, tmp_path, monkeypatch)

    spec = teacher_from_checkpoint(checkpoint, architecture="flattening:make").spec

    assert spec.image_shape == (3, side, side)
    (sentence,) = (each for each in spec.assumptions if "image size" in each)
    assert sentence == (
        f"image size {side}x{side}, since flattening:make takes it and not 32x32; "
        "--image-size says otherwise"
    )


def test_of_several_sizes_the_likeliest_is_taken_and_the_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "nn.AvgPool2d(32), nn.Flatten(), nn.Linear(2 * 4 * 4, 5))"
    checkpoint = flattening(28, tmp_path, monkeypatch)
    text = (tmp_path / "flattening.py").read_text()
    (tmp_path / "flattening.py").write_text(text[: text.index("nn.MaxPool2d")] + source + "\n")
    monkeypatch.delitem(sys.modules, "flattening")
    checkpoint = weights()

    spec = teacher_from_checkpoint(checkpoint, architecture="flattening:make").spec

    assert spec.image_shape == (3, 128, 128)
    assert any("(likewise 150x150, 144x144)" in sentence for sentence in spec.assumptions)


def test_a_size_that_does_not_fit_is_refused_with_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = flattening(28, tmp_path, monkeypatch)

    with pytest.raises(ConfigError, match=r"33x33 .* set --image-size \(such as 28\)$"):
        teacher_from_checkpoint(checkpoint, architecture="flattening:make", image_size=33)


def weights() -> Checkpoint:
    network = build_network("flattening:make", num_classes=5)
    return Checkpoint(tensors=network.state_dict(), metadata={})
