"""Students in 8 bits: what is known of quantisation without our code, and what is refused."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from dreamset_fixtures import tiny_dreams, write_dream_set
from recover_fixtures import blob_dreams, blob_photos, quick_config

from recover.cli import main
from recover.export import Student, load_student
from recover.holdout import split_rows
from recover.int8 import rows_to_calibrate, write_int8
from recover.pipeline import recover_student
from shared.dreamset import DreamSet
from shared.errors import DreamforgeError
from shared.images import to_pixels
from shared.teacher import Teacher

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(n) for n in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime",
)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return blob_dreams(tmp_path_factory.mktemp("dreams") / "set", tiny_teacher)


@pytest.fixture(scope="module")
def folder(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of a student of which half of the weights are zero."""
    folder = tmp_path_factory.mktemp("student") / "out"
    recover_student(quick_config(sparsity=0.5), tiny_teacher, dreams, None, folder)
    return folder


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return load_student(folder / "student.safetensors")


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def written(folder: Path, dreams: DreamSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student in 8 bits, as the command writes it."""
    path = tmp_path_factory.mktemp("program") / "student.onnx"
    result = export(folder, "--out", path, "--int8", "--dreams", dreams.path)
    assert result.exit_code == 0, result.output
    return path


def tensors_of(program: Path) -> dict[str, Any]:
    onnx = importlib.import_module("onnx")
    graph = onnx.load(str(program)).graph
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}


@needs_onnx
@pytest.mark.slow
def test_weights_are_whole_numbers_of_a_scale_and_zeros_stay_zeros(
    student: Student, written: Path
) -> None:
    onnx = importlib.import_module("onnx")
    tensors = tensors_of(written)
    kernels = [n for n in onnx.load(str(written)).graph.node if n.op_type == "DequantizeLinear"]
    of = {name: tensors[name] for n in kernels for name in n.input[:1] if name in tensors}
    kernels_8 = {name: t for name, t in of.items() if t.ndim == 4}
    network = student.classifier.network
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(kernels_8) == len(convolutions)
    assert all(t.dtype == np.int8 for t in kernels_8.values())
    # As many zeros as the student has, at least: what is small is rounded to 0, too.
    zeros = sum(int((t == 0).sum()) for t in kernels_8.values())
    assert zeros >= sum(int((m.weight == 0).sum()) for m in convolutions)
    # Each channel's largest weight takes the whole range, as its scale is made for it.
    for tensor in kernels_8.values():
        largest = np.abs(tensor.reshape(len(tensor), -1).astype(int)).max(1)
        assert set(largest.tolist()) <= {0, 127}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("from_pixels", [False, True])
@pytest.mark.parametrize(
    ("symmetric", "kind", "scale", "zero"),
    [(False, np.uint8, 4 / 255, 128), (True, np.int8, 4 / 254, 0)],
)
def test_black_and_white_dreams_give_inputs_the_scale_of_their_range(
    student: Student,
    tiny_teacher: Teacher,
    tmp_path: Path,
    from_pixels: bool,
    symmetric: bool,
    kind: type,
    scale: float,
    zero: int,
) -> None:
    """Pixels of 0 and 1, less a mean of 1/2 and over a std of 1/4, lie in [-2, 2]."""
    dreams, seen = tiny_dreams(64), split_rows(tiny_dreams(64).labels, 0.1, 0).train
    dreams.images.clamp_(100, 150)
    dreams.images[seen[0], :, 0, 0], dreams.images[seen[-1], :, 7, 7] = 0, 255
    extreme = DreamSet.open(write_dream_set(tmp_path, dreams=dreams, spec=tiny_teacher.spec))
    path = tmp_path / "student.onnx"

    found = write_int8(student, path, extreme, from_pixels=from_pixels, symmetric=symmetric)

    onnx = importlib.import_module("onnx")
    graph, tensors = onnx.load(str(path)).graph, tensors_of(path)
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    assert (graph.input[0].name in first.input) != from_pixels
    assert float(tensors[first.input[1]]) == pytest.approx(scale, rel=1e-5)
    assert tensors[first.input[2]].dtype == kind
    assert int(tensors[first.input[2]]) == zero
    assert found.program.inputs == ("pixels in [0, 1]" if from_pixels else "normalized")


@needs_onnx
@pytest.mark.slow
def test_it_answers_like_the_student_and_is_judged_by_what_it_has_not_seen(
    student: Student, folder: Path, dreams: DreamSet, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    blob_photos(photos, tiny_teacher, 40)
    path = tmp_path / "student.onnx"
    arguments = ["--int8", "--pixels", "--batch", 3, "--eval-data", photos, "--json"]

    result = export(folder, "--out", path, "--dreams", dreams.path, *arguments)

    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["shape"] == [3, 3, 8, 8]
    assert record["num_bytes"] == path.stat().st_size < record["num_bytes_float"]
    assert record["agreement"] > 0.9
    assert record["num_real"] == 40
    judged = CliRunner().invoke(main, ["eval", str(folder), "--eval-data", str(photos), "--json"])
    assert record["student_on_real"]["accuracy"] == json.loads(judged.stdout)["accuracy"]
    # What it answers where nothing of ours is, in batches of its own, is what was judged.
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    images = dreams.images(torch.arange(3))
    (logits,) = session.run(None, {session.get_inputs()[0].name: to_pixels(images).numpy()})
    expected = student.classifier.logits(images)
    assert torch.equal(torch.from_numpy(logits).argmax(1), expected.argmax(1))
    differences = (torch.from_numpy(logits) - expected).abs().max() / expected.abs().max()
    assert 0 < differences < 0.2
    assert 0 < record["difference"] < 0.3


@needs_onnx
@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes(
    folder: Path, dreams: DreamSet, written: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b.onnx"

    assert export(folder, "--out", path, "--int8", "--dreams", dreams.path).exit_code == 0

    assert path.read_bytes() == written.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["b.onnx"]


def test_ranges_and_judgment_are_of_different_dreams(
    student: Student, dreams: DreamSet, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    config = student.facts["config"]
    taught_on = split_rows(dreams.labels, config["holdout"], config["seed"]).train.tolist()
    other = blob_dreams(tmp_path / "set", tiny_teacher, num_images=50)
    for rows in (dreams, other):
        split, remarks = rows_to_calibrate(student, rows)

        assert not remarks
        both = [*split.train.tolist(), *split.held_out.tolist()]
        assert sorted(both) == list(range(rows.num_images))
        assert len(split.train) > len(split.held_out) > 0
        if rows is dreams:  # the student has not seen either what it is judged by
            assert sorted(split.train.tolist()) == taught_on


def test_a_set_of_one_image_judges_by_what_it_has(
    student: Student, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    path = write_dream_set(tmp_path, dreams=tiny_dreams(1), spec=tiny_teacher.spec, num_shards=1)

    split, remarks = rows_to_calibrate(student, DreamSet.open(path))

    assert split.train.tolist() == split.held_out.tolist() == [0]
    assert remarks == ["judged by the dreams that ranges were measured on"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "s.onnx", "--int8"], "--int8 measures ranges on dreams: pass --dreams, too"),
        (["--out", "s.onnx", "--dreams", "d.h5"], "are of --int8: pass it, too"),
        (["--out", "s.onnx", "--symmetric"], "are of --int8: pass it, too"),
        (["--out", "s.onnx", "--eval-data", "photos"], "are of --int8: pass it, too"),
        (["--out", "s.pt2", "--int8", "--dreams", "d.h5"], "expected .onnx for --int8"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    result = export(folder, *arguments)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_it_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"onnx": True, "onnxscript": True}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: here.get(name))

    result = export(folder, "--out", tmp_path / "s.onnx", "--int8", "--dreams", "d.h5")

    assert result.exit_code == 2
    assert "needs onnxruntime: pip install onnx onnxscript onnxruntime" in result.stderr


@needs_onnx
def test_dreams_of_another_network_are_refused_and_nothing_is_written(
    folder: Path, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    larger = write_dream_set(
        tmp_path / "set", spec=dataclasses.replace(tiny_teacher.spec, image_shape=(3, 16, 16))
    )

    result = export(folder, "--out", tmp_path / "s.onnx", "--int8", "--dreams", larger)

    assert result.exit_code == 4
    assert "dream set" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@needs_onnx
def test_what_onnx_runtime_cannot_do_is_one_line_and_nothing_is_lost(
    student: Student, dreams: DreamSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "student.onnx"
    path.write_bytes(b"mine")
    quantization = importlib.import_module("onnxruntime.quantization")

    def fail(*arguments: object, **options: object) -> None:
        raise ValueError("no such\noperator")

    monkeypatch.setattr(quantization, "quantize_static", fail)

    with pytest.raises(DreamforgeError, match=r"cannot be quantized \(no such operator\)"):
        write_int8(student, path, dreams)

    assert path.read_bytes() == b"mine"
    assert [each.name for each in tmp_path.iterdir()] == ["student.onnx"]
