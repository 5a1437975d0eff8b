"""Files of weights: equal whatever the format, and one clear line for every wrong one."""

import argparse
import os
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shared.checkpoint import (
    checkpoint_from_bytes,
    load_checkpoint,
    load_state,
    save_network,
    save_state,
    to_safetensors,
)
from shared.errors import CheckpointError, DreamforgeError
from shared.statedict import strip_prefixes


def make_network() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)))


class Payload:
    """Pickles to a call that creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"model": {"model_state_dict": state}},
        lambda state: {"net": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"state_dict": state, "best_acc1": torch.tensor(76.1)},
        lambda state: {"ema": {"n_averaged": torch.tensor(5)} | state},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_are_found_however_they_are_wrapped(
    wrap: Callable[[Any], Any], legacy: bool, tmp_path: Path
) -> None:
    state = dict(make_network().state_dict())
    path = tmp_path / "weights.th"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not legacy)

    tensors = load_checkpoint(path).tensors

    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_plain_values_beside_the_state_dict_are_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    state = make_network().state_dict()
    torch.save({"state_dict": state, "arch": "resnet18", "mean": [0.5], "optimizer": {}}, path)

    assert load_checkpoint(path).metadata == {"arch": "resnet18", "mean": [0.5]}


def test_our_own_files_keep_tensors_and_metadata(tmp_path: Path) -> None:
    network, path = make_network(), tmp_path / "a.safetensors"
    save_network(path, network, {"architecture": "tiny", "mean": [0.1, 0.2]})

    checkpoint = load_checkpoint(path)

    assert checkpoint.metadata == {"architecture": "tiny", "mean": [0.1, 0.2]}
    assert checkpoint.path == path
    network.load_state_dict(checkpoint.tensors, strict=True)
    network.load_state_dict(load_file(path), strict=True)  # with nothing of ours


def test_bytes_are_equal_for_equal_networks_and_read_back(tmp_path: Path) -> None:
    network = make_network()
    blob = to_safetensors(network, {"b": 1, "a": 2})

    assert blob == to_safetensors(network, {"a": 2, "b": 1})
    checkpoint = checkpoint_from_bytes(blob, "dreams.h5")
    assert checkpoint.metadata == {"a": 2, "b": 1}
    assert torch.equal(checkpoint.tensors["conv.weight"], network.state_dict()["conv.weight"])


def test_the_content_decides_and_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_network(path, make_network(), {})

    assert "conv.weight" in load_checkpoint(path).tensors


def test_a_folder_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/by\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no such names here")
    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    (folder / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())

    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pt")
    (folder / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes())

    for name in ("a.safetensors", "a.pt"):
        found = load_checkpoint(folder / name)
        assert torch.equal(found.tensors["weight"], torch.ones(2))


def test_a_pickle_called_safetensors_is_still_read_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.save({"w": torch.ones(2)}, path)

    assert torch.equal(load_checkpoint(path).tensors["w"], torch.ones(2))


def test_safetensors_may_start_with_the_bytes_of_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x0280)
    path.write_bytes(with_header(header) + struct.pack("<f", 2.5))

    assert path.read_bytes()[:2] == b"\x80\x02"
    assert load_checkpoint(path).tensors["w"].tolist() == [2.5]


def test_compressed_archives_are_refused_before_they_unfold(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))

    assert "compressed" in error_of(path)


def test_strangers_safetensors_have_their_strings_as_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"format": "pt"})

    assert load_checkpoint(path).metadata == {"format": "pt"}


def test_prefixes_are_stripped_only_where_all_names_have_them() -> None:
    assert strip_prefixes(["module.model.a", "module.model.b"]) == ["a", "b"]
    assert strip_prefixes(["model.a", "head.b"]) == ["model.a", "head.b"]
    assert strip_prefixes(["features.0.a", "features.1.b"]) == ["features.0.a", "features.1.b"]


def with_header(header: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header


BAD_TENSORS: dict[str, tuple[Any, str]] = {
    "no tensors": ({"epoch": 3}, "no tensors"),
    "a list": ([1, 2], "expected a state dict"),
    "nan": ({"w": torch.tensor([1.0, float("nan")])}, "'w' has NaN"),
    "infinity": ({"w": torch.tensor([float("inf"), float("-inf")])}, "NaN or infinite"),
    "huge by strides": ({"w": torch.zeros(1).expand(10**6, 10**6)}, "hostile"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "sparse"),
    "itself": ((lambda d: d.update(model=d) or d)({}), "no tensors"),
}
BAD_BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git-lfs pointer"),
    "html": (b"<!DOCTYPE html><html>not found", "HTML"),
    "text": (b"hello, these are\nno weights", "text file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "noise": (bytes(range(200, 256)), "unknown format"),
    "other zip": (b"PK\x03\x04" + bytes(60), "truncated or damaged"),
    "pickle of code": (pickle.dumps(print), "more than tensors"),
    "pickle stub": (b"\x80\x02", "truncated|more than tensors"),
    "header too long": (with_header(b'{"w":{}}', 2**62), "unknown format|text"),
    "header beyond the end": (with_header(b'{"w":{}}', 99), "unknown format|text"),
    "header no json": (with_header(b"{no json"), "damaged safetensors"),
    "header a list": (with_header(b'{"__metadata__":[1]}'), "damaged safetensors"),
    "header lies": (
        with_header(b'{"w":{"dtype":"F32","shape":[99999],"data_offsets":[0,8]}}') + bytes(8),
        "damaged safetensors",
    ),
}


def error_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert len(message) < 600
    return message


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_pickles_with_the_wrong_contents_are_one_line(case: str, tmp_path: Path) -> None:
    value, expected = BAD_TENSORS[case]
    path = tmp_path / "a.pt"
    torch.save(value, path)

    assert expected in error_of(path)


@pytest.mark.parametrize("case", BAD_BYTES)
def test_other_files_are_one_line(case: str, tmp_path: Path) -> None:
    content, expected = BAD_BYTES[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)

    message = error_of(path)
    assert any(part in message for part in expected.split("|")), message


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    assert "No such file" in error_of(tmp_path / "nothing.pt")
    assert "folder" in error_of(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files_are_one_line(kept: float, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(make_network().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])

    assert "truncated or damaged" in error_of(path)


def test_truncated_safetensors_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_safetensors(make_network(), {})[:-10])

    assert "damaged safetensors" in error_of(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    path, target = tmp_path / "a.pt", tmp_path / "executed"
    value = {"state_dict": make_network().state_dict(), "extra": Payload(target)}
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)

    message = error_of(path)

    assert not target.exists()
    assert "where you trust it" in message
    assert "weights_only=False)['state_dict']" in message
    assert "getattr" in message or "pathlib" in message


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_network_is_refused_saying_how_to_convert(
    legacy: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(make_network(), path, _use_new_zipfile_serialization=not legacy)

    message = error_of(path)

    assert "torch.save(model.state_dict()" in message
    assert "torch.nn.modules.container.Sequential" in message


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(path))

    assert "TorchScript" in error_of(path)


def test_training_states_come_back_and_refuse_code(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"step": 7, "loss": [0.5], "momentum": {"w": torch.ones(3)}})

    state = load_state(path)

    assert (state["step"], state["loss"]) == (7, [0.5])
    assert torch.equal(state["momentum"]["w"], torch.ones(3))
    torch.save({"step": Payload(tmp_path / "executed")}, path)
    with pytest.raises(CheckpointError):
        load_state(path)
    assert not (tmp_path / "executed").exists()


def test_no_flipped_bit_of_a_training_state_is_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    weights = torch.arange(1000.0)
    save_state(path, {"w": weights})
    whole = path.read_bytes()

    with zipfile.ZipFile(path) as archive:
        assert any(weights.numpy().tobytes() == archive.read(name) for name in archive.namelist())
    for place in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = load_state(path)
        except CheckpointError:
            continue
        assert torch.equal(found["w"], weights)  # it was in what nobody reads
    start = whole.index(weights.numpy().tobytes())
    path.write_bytes(whole[: start + 8] + bytes(b ^ 0xFF for b in whole[start + 8 : start + 208]))
    with pytest.raises(CheckpointError):
        load_state(path)
    path.write_bytes(whole[: start + 8] + b"\xff" + whole[start + 9 :])
    with pytest.raises(CheckpointError, match="checksum"):
        load_state(path)


def test_metadata_must_be_json_and_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        save_network(tmp_path / "a.safetensors", make_network(), {"mean": float("nan")})

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [save_state, lambda path, value: save_network(path, value, {})])
def test_a_full_disk_is_one_line_with_the_path_and_leaves_what_was_there(
    tmp_path: Path, save: Callable[[Path, Any], None]
) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.pt"
    save(path, nn.Linear(2, 2))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(
            DreamforgeError, match=r"checkpoint\.pt: cannot be written \("
        ) as caught:
            save(path, nn.Linear(200, 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert "without --overwrite, which begins anew" in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("beside", "weights"),
    [
        ({"best": np.float64(93.1)}, r"\['state_dict'\]"),
        ({"folder": Path("/x/y")}, r"\['state_dict'\]"),
        ({"date": datetime(2026, 1, 2)}, r"\['state_dict'\]"),
        ({"history": defaultdict(list)}, r"\['state_dict'\]"),
        (None, r"{k: v for k, v in torch\.load\(PATH, weights_only=False\)\.items\(\)"),
    ],
)
def test_of_a_dict_with_something_else_the_weights_are_to_be_taken_out(
    tmp_path: Path, beside: dict[str, object] | None, weights: str
) -> None:
    path, tensors = tmp_path / "run.pt", nn.BatchNorm2d(2).state_dict()
    torch.save(
        {**tensors, "a": Path()} if beside is None else {"state_dict": tensors, **beside}, path
    )

    with pytest.raises(CheckpointError, match=rf"take the weights out: .*{weights}") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    # What it says to do works.
    command = str(caught.value).rpartition("take the weights out: ")[2]
    new = tmp_path / "new.pt"
    exec(command, {"torch": torch, "PATH": path, "NEW": new})
    assert load_checkpoint(new).tensors.keys() == tensors.keys()


def test_a_pickled_network_in_a_dict_is_no_dict_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"model": nn.BatchNorm2d(2), "best": np.float64(1)}, path)

    with pytest.raises(CheckpointError, match=r"\)\['model'\]\.state_dict\(\), NEW"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["r18/models/model.json", "serialized_exported_program.json"])
def test_an_exported_program_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r18.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "{}")

    with pytest.raises(CheckpointError, match=r"a torch\.export archive \(\.pt2\)"):
        load_checkpoint(path)
