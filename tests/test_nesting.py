"""State dicts inside what training scripts write: found, or refused with the way out."""

import argparse
import datetime
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.architectures import build_network, identify
from shared.checkpoint import Checkpoint, load_checkpoint
from shared.errors import CheckpointError
from shared.teacher import teacher_from_checkpoint

Tensors = dict[str, torch.Tensor]


class Settings:
    """Some object that unpickling would have to import."""


def tensors(value: float = 1.0) -> Tensors:
    return {"0.weight": torch.full((2, 3, 1, 1), value), "1.running_mean": torch.zeros(2)}


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def advised(path: Path) -> Any:
    """Do what the message says, and return what comes of it."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    (command,) = re.findall(r"torch\.save\((.*), NEW\)", str(caught.value))
    new = path.with_name("new.pt")
    torch.save(eval(command, {"torch": torch, "PATH": path}), new)
    return load_checkpoint(new)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    "value",
    [
        {"state_dict": tensors(), "hyper_parameters": {"settings": Settings()}},
        {"when": Settings(), "model": tensors()},
        {**tensors(), "when": datetime.timedelta(1)},
        {"model": {name: tensor.numpy() for name, tensor in tensors().items()}},
        {name: tensor.numpy() for name, tensor in tensors().items()},
    ],
    ids=["Lightning", "beside an object", "flat", "arrays inside", "arrays"],
)
def test_the_advised_way_to_the_weights_works(value: Any, legacy: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", value, _use_new_zipfile_serialization=not legacy)

    found = advised(path).tensors

    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


def test_of_a_whole_network_in_a_dict_the_state_dict_is_advised(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    path = saved(tmp_path / "a.pt", {"epoch": 3, "model": network, "args": Settings()})

    assert advised(path).tensors.keys() == network.state_dict().keys()


def test_a_whole_network_is_no_dict(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\), \.\.\.\)"):
        load_checkpoint(saved(tmp_path / "a.pt", nn.Sequential(nn.Conv2d(3, 2, 1))))


@pytest.mark.parametrize(
    "value",
    [
        {"checkpoint": {"model": tensors()}},
        {"state": {"state_dict": tensors()}, "optimizer": OPTIMIZER},
        {"student": tensors(), "epoch": 3, "loss": torch.tensor(0.1)},
        {"state_dict": {"student": tensors()}},  # an unknown key inside a known one
    ],
)
def test_the_only_network_is_taken_aloud_whatever_its_key(value: Any, tmp_path: Path) -> None:
    found = load_checkpoint(saved(tmp_path / "a.pt", value))

    assert found.tensors.keys() == tensors().keys()
    assert any(note.startswith("took the weights under") for note in found.notes)


def test_of_several_networks_the_keys_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"student": tensors(1.0), "teacher": tensors(2.0)})

    with pytest.raises(CheckpointError, match="2 networks, under 'student', 'teacher'"):
        load_checkpoint(path)
    assert torch.equal(advised(path).tensors["0.weight"], tensors(1.0)["0.weight"])


@pytest.mark.parametrize("value", [{}, {"optimizer": OPTIMIZER}, {"args": argparse.Namespace()}])
def test_nothing_is_found_where_no_network_is(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tensors in it"):
        load_checkpoint(saved(tmp_path / "a.pt", value))


def test_a_damaged_pickle_is_one_line_too(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"a": np.zeros(3), "b": Settings()}, protocol=2)[:-20])

    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        ("", "it is the more common one"),
        ("best", "it is the more common one"),
        ("mobilenet_v2-best", "of the name 'mobilenet_v2-best'"),
        ("net-cifar10", "of the name 'net-cifar10'"),
    ],
)
def test_a_name_is_the_reason_only_where_it_says_something(hint: str, why: str) -> None:
    network = build_network("mobilenet_v2", num_classes=10)

    (sentence,) = identify(network.state_dict(), hint).assumptions

    assert f"because {why}; " in sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: (10 * tensor).to(torch.int8), "is torch.int8, expected floating-point"),
        (lambda tensor: tensor.double() + 1e300, "beyond what float32 holds"),
    ],
)
def test_values_that_no_weight_can_have_are_refused(change: Any, words: str) -> None:
    state = build_network("resnet8", num_classes=4).state_dict()
    state["conv1.weight"] = change(state["conv1.weight"])

    with pytest.raises(CheckpointError, match=words) as caught:
        teacher_from_checkpoint(Checkpoint(tensors=state, metadata={}))
    assert "'conv1.weight'" in str(caught.value)
    assert "\n" not in str(caught.value)
