"""Weights beside their moving average, or under a prefix, of networks without BatchNorm."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.architectures import build_network
from shared.checkpoint import load_checkpoint
from shared.statedict import under_shared_prefix, unnest, without_companions
from shared.teacher import load_teacher

Tensors = dict[str, Tensor]


def plain() -> Tensors:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    return {name: torch.ones_like(tensor) for name, tensor in layers.state_dict().items()}


def average() -> Tensors:
    return {name: 2 * tensor for name, tensor in plain().items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def test_a_moving_average_under_another_key_is_said() -> None:
    for record in (
        {"model": plain(), "model_ema": average()},
        {"ema": average(), "model": plain()},
    ):
        tensors, _, notes = unnest(record, "x")
        assert tensors.keys() == plain().keys()
        assert "took the weights under 'model'" in notes[0]
    nested = {"state_dict": under("module.", plain()), "state_dict_ema": {"model": average()}}
    assert "'state_dict_ema' has some, too" in unnest(nested, "x")[2][0]


@pytest.mark.parametrize(
    "other",
    [
        {"state": {0: {"exp_avg": torch.ones(2)}}},
        {"mean": torch.ones(3), "std": torch.ones(3)},
        {name: tensor[:1] for name, tensor in plain().items()},
    ],
    ids=["optimizer", "statistics", "other shapes"],
)
def test_what_is_no_copy_of_the_weights_is_not_mentioned(other: Any) -> None:
    assert unnest({"model": plain(), "other": other}, "x")[2] == ()


@pytest.mark.parametrize("prefix", ["ema_model.", "average_model.module."])
def test_of_a_module_the_average_is_left_out_aloud(prefix: str) -> None:
    counter = {prefix.partition(".")[0] + ".n_averaged": torch.tensor(4)}
    module = under("model.", plain()) | under(prefix, average()) | counter
    left, note = without_companions(module) or ({}, "")

    assert left.keys() == plain().keys()
    assert all(torch.equal(left[name], tensor) for name, tensor in plain().items())
    assert "took the weights under 'model.'" in note


def test_layers_alike_are_no_networks() -> None:
    twins = {"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4), "fc_ema": nn.Linear(4, 4)}
    assert without_companions(nn.ModuleDict(twins).state_dict()) is None


def test_the_prefix_that_all_share_is_found() -> None:
    whole = under("model.backbone.", plain())
    assert [prefix for prefix, _ in under_shared_prefix(whole)] == ["model.", "model.backbone."]
    assert dict(under_shared_prefix(whole))["model.backbone."].keys() == plain().keys()
    assert list(under_shared_prefix(plain())) == []


@pytest.mark.parametrize(
    "written",
    [
        lambda tensors: under("backbone.", tensors),
        lambda tensors: {
            "state_dict": under("model.", tensors)
            | under("ema_model.", {name: 2 * tensor for name, tensor in tensors.items()})
        },
    ],
    ids=["prefix", "average"],
)
def test_a_squeezenet_is_found_all_the_same(
    written: Callable[[Tensors], Any], tmp_path: Any
) -> None:
    tensors = build_network("squeezenet1_1", num_classes=3).state_dict()
    torch.save(written(tensors), tmp_path / "some.pt")
    assert load_checkpoint(tmp_path / "some.pt").tensors.keys() != tensors.keys()

    network = load_teacher(tmp_path / "some.pt", image_size=32).network
    assert all(torch.equal(network.state_dict()[name], tensors[name]) for name in tensors)
