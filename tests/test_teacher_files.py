"""Files and factories as people have them: loaded, with what was chosen said, or refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shared.architectures import ARCHITECTURES, build_network, build_skeleton
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, ConfigError, IncompatibleError
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint, load_teacher, teacher_from_checkpoint


def filled(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a skeleton with values that let it answer."""
    return {
        name: torch.full(tensor.shape, 0.01, dtype=tensor.dtype)
        for name, tensor in network.state_dict().items()
    }


def of_small_architectures() -> list[str]:
    """The smallest of every kind of network, and all MNASNets."""
    wanted = ["densenet121", "efficientnet_b0", "googlenet", "mobilenet_v2", "mobilenet_v3_small"]
    wanted += ["mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf", "resnet8", "resnet8_b"]
    wanted += ["resnet8_fc", "shufflenet_v2_x0_5", "wrn_16_1", "cifar_densenet121"]
    return wanted + [name for name in ARCHITECTURES if name.startswith("mnasnet")]


@pytest.mark.parametrize(
    "name",
    [
        *of_small_architectures(),
        *("resnet18", "cifar_resnet18", "kuangliu_resnet18", "cifar_vgg11_bn"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("efficientnet_v2_s", "inception_v3", "maxvit_t", "resnet50")
        ),
    ],
)
def test_every_kind_of_network_is_loaded_from_its_state_dict(name: str) -> None:
    tensors = filled(build_skeleton(lambda: ARCHITECTURES[name].build(5)))
    size = {"inception_v3": 96, "maxvit_t": 224}.get(name, 32)

    teacher = teacher_from_checkpoint(
        Checkpoint(tensors=tensors, metadata={}), architecture=name, image_size=size
    )

    assert (teacher.spec.architecture, teacher.spec.num_classes) == (name, 5)
    assert fingerprint(teacher.network) == fingerprint(tensors)


def mobile(num_classes: int = 4) -> dict[str, Tensor]:
    return build_network("resnet8", num_classes=num_classes).state_dict()


def save(value: object, folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save(value, path)
    return path


def test_a_single_logit_is_a_sigmoid_aloud(tmp_path: Path) -> None:
    for architecture in (None, "resnet8"):
        spec = load_teacher(save(mobile(1), tmp_path), architecture=architecture).spec
        assert (spec.answers, spec.num_classes) == ("sigmoid", 2)
        assert any("a sigmoid: class 1" in text for text in spec.assumptions)


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of one's own, as one finds it, and weights for all that is in it."""
    (tmp_path / "own_nets.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own.pt"
    torch.save(build_network("own_nets:Net", num_classes=3).state_dict(), path)
    return path


FACTORIES = """
import torch
from torch import nn

constant = 3


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.features(x))


class HiddenBuffer(Net):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.register_buffer("scale", torch.full((1, 3, 1, 1), 2.0), persistent=False)

    def forward(self, x):
        return super().forward(x * self.scale)


class PlainAttribute(Net):
    unused = None

    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.scale = torch.ones(1, 3, 1, 1) * 2
        self.unused = torch.ones(2)

    def forward(self, x):
        return super().forward(x * self.scale)


class Computes(Net):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.scale = float(torch.ones(3).sum() - 1) * torch.ones(2).numpy()[0].item()

    def forward(self, x):
        return super().forward(x * self.scale)


class Sigmoid(Net):
    def forward(self, x):
        z = super().forward(x)
        return torch.cat([torch.zeros_like(z), z], 1)


class Particular(Net):
    def __init__(self, num_classes):
        super().__init__({3: 3, 100: 100}[num_classes])


class Needs(Net):
    def __init__(self, width, num_classes=3):
        super().__init__(num_classes)


class Raises(Net):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        {}["depth"]


def leaves():
    raise SystemExit("usage: train.py DATA")


def no_network(num_classes):
    return [num_classes]
"""


@pytest.mark.parametrize("name", ["HiddenBuffer", "PlainAttribute", "Computes"])
def test_what_a_constructor_computes_is_kept(factories: Path, name: str) -> None:
    plain = load_teacher(factories, architecture="own_nets:Net", image_size=8)
    before = torch.random.get_rng_state()
    teacher = load_teacher(factories, architecture=f"own_nets:{name}", image_size=8)

    assert torch.equal(torch.random.get_rng_state(), before)
    pixels = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(teacher.network(pixels), plain.network(2 * pixels))
    assert teacher.spec.fingerprint == plain.spec.fingerprint
    on_meta = teacher.to(torch.device("meta"))  # all of it moves
    assert on_meta.network(pixels.to("meta")).shape == (2, 3)


def test_a_factory_may_take_its_own_numbers_of_classes_only(factories: Path) -> None:
    spec = load_teacher(factories, architecture="own_nets:Particular", image_size=8).spec

    assert spec.num_classes == 3


def test_a_factory_may_make_two_logits_of_one(factories: Path) -> None:
    path = factories.with_name("sigmoid.pt")
    torch.save(build_network("own_nets:Net", num_classes=1).state_dict(), path)

    teacher = load_teacher(
        path, architecture="own_nets:Sigmoid", image_size=8, class_names=["no", "yes"]
    )

    assert teacher.spec.num_classes == 2
    assert teacher.spec.class_names == ("no", "yes")
    answers = teacher.logits(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    assert answers.shape == (3, 2)
    of_one = load_teacher(path, architecture="own_nets:Net", image_size=8)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(of_one.logits(images), teacher.logits(images))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raises", r"called with \(num_classes=3\), it raised KeyError: 'depth'"),
        ("leaves", r"called with \(\), it raised SystemExit: usage: train\.py DATA"),
        ("Needs", r"missing a required argument: 'width'; write a function .* num_classes=\.\.\."),
        ("no_network", "returned a list, expected an nn.Module"),
        ("constant", "is of type int, expected a class or a function"),
        ("nothing", "cannot be imported: AttributeError: .*nothing"),
    ],
)
def test_a_factory_that_does_not_work_is_one_line(factories: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_teacher(factories, architecture=f"own_nets:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("undefined", "NameError: name 'undefined' is not defined"),
        ("import no_such_module_at_all", "ModuleNotFoundError: .*no_such_module_at_all"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    (tmp_path / "broken_nets.py").write_text(code + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"broken_nets:f' cannot be imported: {words}") as caught:
        load_teacher(save(mobile(), tmp_path), architecture="broken_nets:f")
    assert "\n" not in str(caught.value)


def test_a_guess_for_a_network_of_ones_own_is_called_a_guess(factories: Path) -> None:
    said = load_teacher(factories, architecture="own_nets:Net").spec.assumptions

    assert any(text.startswith("image size 32x32, a guess") for text in said), said
    assert any("std 0.229" in text and "a guess" in text for text in said), said
    assert not any("usual" in text for text in said)


@pytest.mark.parametrize("prefix", ["backbone.", "encoder.", "model.backbone.", "model."])
def test_prefixes_that_all_batch_norms_share_are_taken_off(prefix: str) -> None:
    inside = mobile()
    tensors = {prefix + name: tensor for name, tensor in inside.items()}
    named: dict[str, object] = {"architecture": "resnet8"}

    for options in ({}, named):
        spec = teacher_from_checkpoint(
            Checkpoint(tensors=tensors, metadata={}),
            **options,  # type: ignore[arg-type]
        ).spec
        assert (spec.architecture, spec.fingerprint) == ("resnet8", fingerprint(inside))
        assert not any("left out" in text for text in spec.assumptions)


def test_tensors_beside_the_network_are_left_out_aloud() -> None:
    inside = mobile()
    tensors = {f"model.{name}": tensor for name, tensor in inside.items()}
    tensors |= {"criterion.weight": torch.ones(4), "train_acc.tp": torch.zeros(4)}

    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={})).spec

    assert spec.fingerprint == fingerprint(inside)
    assert (
        "left out 2 tensors beside the network, whose names begin with 'model.'; the first is "
        "'criterion.weight'"
    ) in spec.assumptions


@pytest.mark.parametrize("average", ["ema_model.", "ema_model.module.", "model_ema.", "swa."])
@pytest.mark.parametrize("named", [{}, {"architecture": "resnet8"}])
def test_beside_its_moving_average_a_network_is_taken_aloud(
    average: str, named: dict[str, str]
) -> None:
    plain, averaged = mobile(), mobile()
    tensors = {f"{average}{name}": tensor for name, tensor in averaged.items()}
    tensors |= {f"model.{name}": tensor for name, tensor in plain.items()}
    tensors[f"{average.partition('.')[0]}.n_averaged"] = torch.tensor(3)

    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}), **named).spec

    assert spec.fingerprint == fingerprint(plain)
    assert any(text.startswith("took the weights under 'model.'; ") for text in spec.assumptions)


def test_of_several_networks_alike_none_is_taken() -> None:
    tensors = {f"{part}.{name}": t for part in ("student", "guide") for name, t in mobile().items()}
    with pytest.raises(CheckpointError, match=r"of 2 networks, .* 'student\.' and 'guide\.'"):
        teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}))


@pytest.mark.parametrize("named", [{}, {"architecture": "resnet8"}])
def test_what_losses_keep_beside_a_bare_network_is_left_out_aloud(named: dict[str, str]) -> None:
    tensors = mobile()
    beside = {"loss_weight": torch.ones(3), "criterion.weight": torch.ones(4)}
    spec = teacher_from_checkpoint(Checkpoint(tensors=tensors | beside, metadata={}), **named).spec

    assert spec.fingerprint == fingerprint(tensors)
    assert any("left out 2 tensors of losses or metrics" in text for text in spec.assumptions)


@pytest.mark.parametrize("name", ["scale", "head2.weight", "layer1.loss"])
def test_what_may_be_a_part_of_the_network_is_not_left_out(name: str) -> None:
    tensors = mobile() | {name: torch.ones(3)}
    with pytest.raises(CheckpointError, match="1 tensors too many"):
        teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}), architecture="resnet8")


def test_a_part_of_a_larger_network_is_taken_only_where_it_is_named() -> None:
    inside = mobile()
    num_classes = len(inside["linear.weight"])
    tensors = {f"base.{name}": tensor for name, tensor in inside.items()}
    tensors |= {"out.weight": torch.ones(3, num_classes), "out.bias": torch.ones(3)}

    with pytest.raises(CheckpointError, match="beside it 'out', which makes 3 of them") as raised:
        teacher_from_checkpoint(Checkpoint(tensors=tensors, metadata={}))
    assert "--arch package.module:factory" in str(raised.value)
    spec = teacher_from_checkpoint(
        Checkpoint(tensors=tensors, metadata={}), architecture="resnet8"
    ).spec
    assert spec.num_classes == num_classes


def test_of_tensors_that_do_not_fit_the_first_of_both_sides_is_named() -> None:
    tensors = mobile()
    tensors["fc.weight"] = tensors.pop("linear.weight")
    for prefix in ("", "backbone."):
        renamed = {prefix + name: tensor for name, tensor in tensors.items()}
        with pytest.raises(
            CheckpointError,
            match=r"resnet8: 1 of its \d+ tensors are missing, first linear\.weight; "
            r"1 tensors too many, first 'fc\.weight'",
        ):
            teacher_from_checkpoint(Checkpoint(tensors=renamed, metadata={}))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"model": "a", "model_ema": "b"}, "took the weights under 'model'; 'model_ema' has some"),
        ({"state_dict": "a", "state_dict_ema": "b"}, "under 'state_dict'; 'state_dict_ema' has"),
        ({"model": "a", "swa": {"state_dict": "b"}}, "under 'model'; 'swa' has some"),
        ({"model": "a", "optimizer": {"state": {}}}, None),
        ({"state_dict": {"model": "a", "ema": "b"}}, "under 'model'; 'ema' has some"),
    ],
)
def test_the_choice_between_weights_is_said(
    tmp_path: Path, record: dict, words: str | None
) -> None:
    first, second = mobile(), mobile()

    def with_weights(value: object) -> object:
        if isinstance(value, dict):
            return {key: with_weights(inner) for key, inner in value.items()}
        return {"a": first, "b": second}[str(value)]

    spec = load_teacher(save(with_weights(record), tmp_path)).spec

    assert spec.fingerprint == fingerprint(first)
    said = [text for text in spec.assumptions if text.startswith("took the weights")]
    assert (words is None and not said) or (len(said) == 1 and str(words) in said[0])


def test_a_teacher_of_another_architecture_does_not_belong_to_the_dreams() -> None:
    recorded = TeacherSpec(
        architecture="resnet14",
        num_classes=4,
        image_shape=(3, 32, 32),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        fingerprint="0" * 64,
    )
    checkpoint = Checkpoint(tensors=mobile(), metadata={}, path=Path("b.pt"))

    with pytest.raises(
        IncompatibleError, match=r"b\.pt: holds a resnet8, and the dreams were made from a resnet14"
    ) as caught:
        teacher_from_checkpoint(checkpoint, spec=recorded)
    assert "\n" not in str(caught.value)
    given: Teacher = teacher_from_checkpoint(checkpoint, spec=recorded, architecture="resnet8")
    assert given.spec.architecture == "resnet8"


OF_BYTES = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_of_bytes_are_refused_with_what_they_are_for_pixels(name: str) -> None:
    checkpoint = Checkpoint(tensors=mobile(), metadata={})
    quotient = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}[name]

    with pytest.raises(ConfigError, match=f"divide by 255: --{name} {quotient}") as caught:
        teacher_from_checkpoint(checkpoint, **{name: OF_BYTES[name]})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_recorded_statistics_of_bytes_are_not_taken_and_that_is_said() -> None:
    checkpoint = Checkpoint(tensors=mobile(), metadata=OF_BYTES)

    spec = teacher_from_checkpoint(checkpoint).spec

    assert spec.mean == (0.485, 0.456, 0.406)
    for name in ("mean", "std"):
        ignored = [text for text in spec.assumptions if text.startswith(f"recorded {name} ignored")]
        assert len(ignored) == 1
        assert f"--{name} 0." in ignored[0]
    given = teacher_from_checkpoint(checkpoint, mean=[0.5], std=[0.5]).spec
    assert (given.mean, given.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5], [0.5]),
        ([0.0], [1.0]),
        ([0.0], [1 / 255]),  # a network that takes bytes
        ([0.485, 0.456, 0.406], [1 / 255] * 3),  # and one that takes them less their mean
        ([-0.1, 0.0, 1.1], [0.01, 0.3, 2.0]),
    ],
)
def test_unusual_but_possible_statistics_are_taken(mean: list[float], std: list[float]) -> None:
    for source in ({"mean": mean, "std": std}, {}):
        options = {} if source else {"mean": mean, "std": std}
        checkpoint = Checkpoint(tensors=mobile(), metadata=source)
        spec = teacher_from_checkpoint(checkpoint, **options).spec  # type: ignore[arg-type]
        assert spec.mean[0] == mean[0]
        assert spec.std[-1] == std[-1]


@pytest.mark.parametrize(
    "record",
    [
        {"class_to_idx": {"dog": 2, "ant": 0, "cat": 1}, "img_size": 16},
        {"idx_to_class": {0: "ant", 1: "cat", 2: "dog"}, "input_size": [16, 16]},
        {"classes": ["ant", "cat", "dog"], "input_size": [3, 16, 16]},
        {"class_names": ["ant", "cat", "dog"], "classes": 3, "image_size": 16.0},
    ],
)
def test_what_training_scripts_write_beside_their_weights_is_read(
    tmp_path: Path, record: dict
) -> None:
    weights = build_network("resnet8", num_classes=3).state_dict()
    torch.save({"model": weights, **record}, tmp_path / "checkpoint.pt")

    spec = load_teacher(tmp_path / "checkpoint.pt").spec

    assert spec.class_names == ("ant", "cat", "dog")
    assert spec.image_shape == (3, 16, 16)
    assert not any("image size" in text or "class" in text for text in spec.assumptions)


@pytest.mark.parametrize(
    "record",
    [
        {"class_to_idx": {"dog": 2, "ant": 0, "cat": 0}},
        {"class_to_idx": {"dog": "2", "ant": "0", "cat": "1"}},
        {"class_to_idx": {"ant": True, "cat": False}},
        {"idx_to_class": {1: "ant", 2: "cat", 3: "dog"}},
        {"class_to_idx": {}},
        {"classes": 3, "img_size": "16"},
        {"input_size": [1, 2, 3, 4], "image_size": 0.5},
    ],
)
def test_what_means_something_else_is_passed_over(tmp_path: Path, record: dict) -> None:
    weights = build_network("resnet8", num_classes=3).state_dict()
    torch.save({"model": weights, **record}, tmp_path / "checkpoint.pt")

    spec = load_teacher(tmp_path / "checkpoint.pt").spec

    assert spec.class_names is None
    assert spec.image_shape == (3, 32, 32)
