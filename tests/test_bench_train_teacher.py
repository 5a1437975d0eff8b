import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import blobs
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import findings_of_classes
import part_file
import train_teacher
from training import Recipe, Training, training_loss

from shared.architectures import build_network
from shared.checkpoint import load_checkpoint, load_state, save_state
from shared.errors import CheckpointError, ConfigError, IncompatibleError, InterruptedRunError
from shared.evaldata import EvalData
from shared.seeding import generator
from shared.spec import TeacherSpec
from shared.teacher import load_teacher

CPU = torch.device("cpu")
# Of chinoscode1708/DF-Prune-Recover, with stems for 32 px.
SEED_REPOSITORY = (
    *("cifar_mobilenet_v2", "cifar_vgg19_bn", "cifar_densenet121", "cifar_shufflenet_v2_x1_0"),
    "cifar_resnet18",
    *(
        pytest.param(f"cifar_{name}", marks=pytest.mark.slow)
        for name in ("resnet34", "resnet50", "wide_resnet50_2")
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """48 blobs to train on, 16 to judge by, a folder per class."""
    root = tmp_path_factory.mktemp("blobs")
    for split, number, seed in (("train", 48, 0), ("test", 16, 1)):
        images, labels = blobs(number, seed)
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            place = root / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{index:02d}.png")
    return root


@pytest.fixture
def words(folder, tmp_path):
    """Three epochs of three updates."""
    place = ["--data", str(folder), "--out", str(tmp_path / "sub" / "teacher.safetensors")]
    size = ["--arch", "resnet8", "--image-size", "8", "--epochs", "3", "--batch-size", "16"]
    return [*place, *size, "--device", "cpu", "--precision", "float32"]


def train(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train_teacher.py", *words])
    assert train_teacher.main() == 0
    out = Path(words[words.index("--out") + 1])
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return out.read_bytes()


def stop_after(monkeypatch, number, stop):
    """Call ``stop`` within the update ``number``, counted from 1."""
    seen = []
    update = Training.update

    def counted(self):
        seen.append(self)
        if len(seen) == number:
            stop()
        update(self)

    monkeypatch.setattr(Training, "update", counted)


def send(number):
    return lambda: os.kill(os.getpid(), number)


def test_a_teacher_knows_its_preprocessing_classes_and_origin(words, folder, monkeypatch, tmp_path):
    train(monkeypatch, *words, "--note", "blobs, public domain")

    path = tmp_path / "sub" / "teacher.safetensors"
    spec = load_teacher(path).spec
    assert (spec.architecture, spec.image_shape) == ("resnet8", (3, 8, 8))
    assert spec.class_names == ("class0", "class1", "class2", "class3")
    assert spec.assumptions == ()
    origin = load_checkpoint(path).metadata["provenance"]
    assert origin["data"] == "blobs, public domain"
    assert origin["num_images"] == {"train": 48, "test": 16}
    assert origin["training"]["epochs"] == 3
    assert str(folder) not in str(origin)


@pytest.mark.parametrize(("number", "signum"), [(2, signal.SIGINT), (6, signal.SIGTERM)])
def test_a_signal_waits_for_the_update_and_the_same_command_ends_with_the_same_bits(
    words, monkeypatch, tmp_path, number, signum
):
    expected = train(monkeypatch, *words)
    out = tmp_path / "sub" / "teacher.safetensors"
    out.unlink()

    with monkeypatch.context() as patch:
        stop_after(patch, number, send(signum))
        with pytest.raises(InterruptedRunError, match="the same command goes on") as caught:
            train(patch, *words)
    assert caught.value.exit_code == 130
    assert [path.name for path in out.parent.iterdir()] == ["teacher.safetensors.part"]
    state = load_state(out.with_name("teacher.safetensors.part"))
    assert 3 * state["epoch"] + state["step"] == number

    assert train(monkeypatch, *words) == expected


def test_a_killed_training_goes_on_from_an_epochs_end(words, monkeypatch, tmp_path):
    expected = train(monkeypatch, *words)
    out = tmp_path / "sub" / "teacher.safetensors"
    out.unlink()
    monkeypatch.setattr(part_file, "SECONDS_BETWEEN", 0.0)

    def die():
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        stop_after(patch, 8, die)
        with pytest.raises(RuntimeError, match="killed"):
            train(patch, *words)
    state = load_state(out.with_name("teacher.safetensors.part"))
    assert (state["epoch"], state["step"]) == (2, 0)

    assert train(monkeypatch, *words) == expected


def test_a_closed_form_update():
    """One bias, one image: the gradient is the probability less one where the label is."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    data = EvalData(
        images=torch.full((1, 3, 8, 8), 51, dtype=torch.uint8), labels=torch.tensor([1])
    )
    training = Training(network, data, spec_of(8, 2), CPU, recipe(shift=0, flip=False, epochs=10))

    training.update()

    lr = 0.1 / 25  # where one cycle begins; Nesterov's first step is 1 + momentum gradients
    expected = torch.tensor([-0.5, 0.5]) * lr * 1.9
    assert torch.allclose(network[1].bias.detach(), expected, rtol=1e-5)
    assert training.num_left == 0
    assert training.end_epoch() == 0.0  # of equal logits, the first is the answer
    assert training.num_left == 1


def test_dropout_goes_on_where_it_stopped(tmp_path):
    images = torch.randint(0, 256, (12, 3, 8, 8), generator=generator(0), dtype=torch.uint8)
    data = EvalData(images=images, labels=torch.arange(12) % 2)

    def begin():
        layers = torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(192, 2)
        network = torch.nn.Sequential(*layers)
        network[2].weight.data.fill_(0.01)
        network[2].bias.data.zero_()
        return network, Training(network, data, spec_of(8, 2), CPU, recipe(epochs=2, batch_size=4))

    network, training = begin()
    training.update()
    save_state(tmp_path / "state", training.state())
    training.update()

    again, resumed = begin()
    torch.default_generator.manual_seed(1)
    resumed.load_state(load_state(tmp_path / "state"))
    resumed.update()
    assert torch.equal(network[2].weight, again[2].weight)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (["--lr", "0.1"], r"lr 0\.2 \(now 0\.1\)"),
        (["--seed", "1", "--no-flip"], r"no_flip False \(now True\), seed 0 \(now 1\)"),
        (["--precision", "bfloat16"], r"precision torch\.float32"),
        (["--image-size", "9"], "data"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused_or_overwritten(
    words, monkeypatch, tmp_path, changes, found
):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, send(signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            train(patch, *words)

    with pytest.raises(IncompatibleError, match=found) as caught:
        train(monkeypatch, *words, *changes)
    assert "\n" not in str(caught.value)
    train(monkeypatch, *words, *changes, "--overwrite")


def test_what_decides_no_weights_may_change(words, folder, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, send(signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            train(patch, *words)
    moved = tmp_path / "moved"
    moved.symlink_to(folder)

    updates = []
    with monkeypatch.context() as patch:
        stop_after(patch, 1, lambda: updates.append("went on"))
        words[words.index("--data") + 1] = str(moved)
        train(patch, *words, "--note", "blobs")
    assert updates


def test_a_finished_teacher_stays(words, monkeypatch, tmp_path):
    before = train(monkeypatch, *words)

    with pytest.raises(ConfigError, match="is there already; choose another --out"):
        train(monkeypatch, *words)
    assert train(monkeypatch, *words, "--overwrite") == before


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"list"])
def test_what_is_no_checkpoint_is_refused_in_one_line(words, monkeypatch, tmp_path, content):
    path = tmp_path / "sub" / "teacher.safetensors.part"
    path.parent.mkdir()
    if content == b"list":
        save_state(path, [1, 2])
    else:
        path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"teacher\.safetensors\.part: ") as caught:
        train(monkeypatch, *words)
    assert "\n" not in str(caught.value)


def test_both_splits_of_cifar10_have_the_labels_of_their_own(monkeypatch, tmp_path):
    asked = []

    def read(root, image_shape, *, train=False):
        asked.append((root, image_shape, train))
        images = torch.zeros(2, *image_shape, dtype=torch.uint8)
        return EvalData(images=images, labels=torch.tensor([3, 9])), list("abcdefghij")

    monkeypatch.setattr(train_teacher, "read_cifar10", read)
    data, names = train_teacher.read_data(f"cifar10:{tmp_path}", (3, 32, 32))

    assert names == list("abcdefghij")
    assert asked == [(tmp_path, (3, 32, 32), True), (tmp_path, (3, 32, 32), False)]
    assert data.keys() == {"train", "test"}


def test_images_are_made_to_fit(folder):
    data, names = train_teacher.read_data(str(folder), (3, 24, 24))

    assert data["train"].images.shape == (48, 3, 24, 24)
    assert data["test"].labels.bincount(minlength=len(names)).sum() == 16


@pytest.mark.parametrize("name", SEED_REPOSITORY)
def test_every_architecture_of_the_seed_repository_learns_at_32_px(name):
    options = train_teacher.parse_arguments(["--data", "d", "--out", "o", "--arch", name])
    network = train_teacher.make_network(options, 10, 3).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=generator(0), dtype=torch.uint8)
    data = EvalData(images=images, labels=torch.tensor([0, 7]))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    training = Training(network, data, spec_of(32, 10), CPU, recipe())

    training.update()

    after = list(network.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in after)
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved[0]  # the first convolution
    assert moved[-1]  # the last bias


def test_first_weights_depend_on_the_seed_alone():
    def weights(seed):
        words = ["--data", "d", "--out", "o", "--arch", "resnet8", "--seed", seed]
        return train_teacher.make_network(train_teacher.parse_arguments(words), 4, 3).state_dict()

    first = weights("0")
    torch.default_generator.manual_seed(5)
    for name, tensor in weights("0").items():
        assert torch.equal(tensor, first[name]), name
    assert not torch.equal(weights("1")["linear.bias"], first["linear.bias"])


def spec_of(size, num_classes):
    return TeacherSpec(
        architecture="resnet8",
        num_classes=num_classes,
        image_shape=(3, size, size),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        fingerprint="0" * 64,
    )


def recipe(**changes):
    facts = {"epochs": 1, "batch_size": 2, "lr": 0.1, "weight_decay": 0.0, "shift": 1, "flip": True}
    return Recipe(**facts | {"seed": 0, "dtype": torch.float32} | changes)


@pytest.mark.parametrize("names", ["own", "foreign"])
def test_fine_tuning_starts_from_all_but_the_head(tmp_path, names):
    """Of a network for 7 classes, under its own names or under another implementation's."""
    trained = build_network("resnet8", num_classes=7).state_dict()
    stored = (
        trained if names == "own" else {f"_x{k}.{n}": t for k, (n, t) in enumerate(trained.items())}
    )
    path = tmp_path / "start.pt"
    torch.save(stored, path)
    words = ["--data", "d", "--out", "o", "--arch", "resnet8", "--init", str(path)]

    network = train_teacher.make_network(train_teacher.parse_arguments(words), 4, 3)

    for name, tensor in network.state_dict().items():
        if name.startswith("linear"):
            assert len(tensor) == 4
        elif not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, trained[name]), name


def test_weights_of_which_nothing_fits_are_no_start(tmp_path):
    path = tmp_path / "start.pt"
    torch.save({"encoder.weight": torch.zeros(3)}, path)
    words = ["--data", "d", "--out", "o", "--arch", "resnet8", "--init", str(path)]

    with pytest.raises(
        ConfigError, match=r"--init .*start\.pt: none of its 1 tensors fits resnet8"
    ):
        train_teacher.make_network(train_teacher.parse_arguments(words), 4, 3)


def test_a_table_of_findings_trains_a_network_of_sigmoids(folder, words, tmp_path, monkeypatch):
    tables = tmp_path / "tables"
    findings = "top=class0,class1;left=class0,class2"
    monkeypatch.setattr(
        sys,
        "argv",
        ["findings_of_classes.py", str(folder), "--out", str(tables), "--findings", findings],
    )
    assert findings_of_classes.main() == 0
    rows = (tables / "test.csv").read_text().splitlines()
    assert rows[0] == "image,top,left"
    assert len(rows) == 17
    found = {Path(row.split(",")[0]).parent.name: row.split(",")[1:] for row in rows[1:]}
    expected = {"class0": "11", "class1": "10", "class2": "01", "class3": "00"}
    assert {name: "".join(values) for name, values in found.items()} == expected

    words[words.index("--data") + 1] = str(tables)
    train(monkeypatch, *words)

    out = tmp_path / "sub" / "teacher.safetensors"
    spec = load_teacher(out).spec
    assert (spec.answers, spec.class_names) == ("sigmoid", ("none", "top", "left"))
    assert load_checkpoint(out).tensors["linear.weight"].shape[0] == 2


@pytest.mark.parametrize("text", ["", "top", "top=", "=class0", "top=class9"])
def test_findings_of_classes_that_are_not_there_are_refused(text):
    with pytest.raises(ConfigError, match="--findings"):
        findings_of_classes.parse_findings(text, ["class0", "class1"])


def test_what_is_not_known_teaches_nothing():
    logits = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.5, 3.0]])
    labels = torch.tensor([[1, -1], [-1, 0]], dtype=torch.int8)

    loss = training_loss(logits, labels)

    known = torch.tensor([2.0, 3.0])
    expected = torch.nn.functional.softplus(torch.tensor([-1.0, 1.0]) * known).mean()
    torch.testing.assert_close(loss, expected)
