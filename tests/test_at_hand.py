"""Networks at hand that do more than their tensors say: what is taught is what they answer."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision import models

import dreamforge
import recover
from recover.config import RecoverConfig
from recover.lesson import Lesson
from shared.at_hand import plain_copy, student_of, teacher_at_hand
from shared.errors import CheckpointError, ConfigError, IncompatibleError

pytestmark = pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")
FACTS = {"image_size": 8, "mean": 0.5, "std": 0.25}
QUICK = {"progress": False, "device": "cpu", "steps": 2, "batch_size": 8}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head, self.other = nn.Linear(8, 4), nn.Linear(8, 4)

    def features(self, inputs: Tensor) -> Tensor:
        return self.norm(self.convolution(inputs)).relu().mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs))  # type: ignore[no-any-return]


class Domains(Net):
    def forward(self, inputs: Tensor, domain: int | None = None) -> Tensor:
        head = self.head if domain is None else self.other
        return head(self.features(inputs))  # type: ignore[no-any-return]


class WithLoss(Net):
    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Any:
        logits = super().forward(inputs)
        return logits if targets is None else (logits, F.cross_entropy(logits, targets))


@dataclass
class Answer:
    logits: Tensor


class Answering(Net):
    def forward(self, inputs: Tensor) -> Answer:  # type: ignore[override]
        return Answer(super().forward(inputs))


def turned() -> nn.Module:
    network = Net()
    network.register_forward_hook(lambda module, inputs, output: output[:, [1, 2, 3, 0]])
    return network


def negated() -> nn.Module:
    network = Net()
    network.register_forward_pre_hook(lambda module, inputs: (-inputs[0],))
    return network


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
        for _ in range(10):
            network(torch.randn(16, 3, 8, 8))
    return network.eval()


def synth(network: nn.Module, folder: Path, **options: Any) -> dreamforge.DreamSet:
    chosen = {**FACTS, **QUICK, "num_images": 16, "compile": "off"}
    return dreamforge.synth(network, folder / "dreams.h5", **{**chosen, **options})


@pytest.mark.parametrize("make", [Net, Domains, WithLoss, Answering, turned, negated])
def test_a_copy_has_nothing_to_learn_from_the_network(make: Callable[[], nn.Module]) -> None:
    network = trained(make)
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    with teacher_at_hand(network, image_size=8, mean=(0.5,), std=(0.25,)) as teacher:
        for weight in (0.0, 10.0):
            config = RecoverConfig(feature_weight=weight, bn_mode="frozen", precision="float32")
            config = config.resolve((3, 8, 8))
            lesson = Lesson(teacher, config, torch.device("cpu"), lambda: images)
            loss = lesson.loss(copy.deepcopy(teacher.network), images)
            assert float(loss) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("make", [WithLoss, Answering])
def test_what_comes_back_answers_as_its_class_does(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    network = trained(make)
    dreams = synth(network, tmp_path)
    options = {**QUICK, "teacher": network, "out": tmp_path / "s"}
    found = recover.run(dreams, sparsity=0.5, **options)

    assert type(found.network(torch.randn(2, 3, 8, 8))) is type(network(torch.randn(2, 3, 8, 8)))


@pytest.mark.parametrize(
    ("build", "size", "heads"),
    [
        (models.googlenet, 32, ("aux1", "aux2")),
        pytest.param(models.inception_v3, 75, ("AuxLogits",), marks=pytest.mark.slow),
        (models.mnasnet0_5, 32, ()),
    ],
)
def test_a_network_of_torchvision_at_hand_comes_back(
    build: Callable[..., nn.Module], size: int, heads: tuple[str, ...]
) -> None:
    options = {"init_weights": False} if heads else {}
    network = build(num_classes=4, **options).eval()
    with teacher_at_hand(network, image_size=size, mean=(0.5,), std=(0.25,)) as teacher:
        assert teacher.spec.architecture == build.__name__
        back = student_of(network, teacher.network.state_dict())
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            assert torch.equal(back(images), teacher.network(images))
    assert all(getattr(back, head) is None for head in heads)
    assert all(getattr(network, head) is not None for head in heads)  # which is left as it is
    assert isinstance(back.train()(images), Tensor)


def test_logits_of_large_common_parts_do_not_hide_another_function() -> None:
    """GoogLeNet that turns its inputs around is no plain GoogLeNet, though answers are alike."""
    network = models.googlenet(num_classes=4, init_weights=False, transform_input=True).eval()
    with torch.no_grad():
        network.fc.bias.add_(1e3)
    with teacher_at_hand(network, image_size=32, mean=(0.5,), std=(0.25,)) as teacher:
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(teacher.network(images), network(images))


def test_of_an_unknown_network_it_is_not_asked_what_it_could_be_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That builds every known architecture, for an error that nobody sees."""

    def refuse(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr("shared.fitting.fit_by_position", refuse)
    with teacher_at_hand(Net(), image_size=8, mean=(0.5,), std=(0.25,)) as teacher:
        assert teacher.spec.architecture == "test_at_hand:Net"


class TwoInputs(Net):
    def forward(self, inputs: Tensor, more: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(inputs + more)


class TwoHeads(Net):
    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.features(inputs)), self.other(self.features(inputs))


class Detached(Net):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach()


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, inputs: Tensor) -> Tensor:
        features = F.batch_norm(
            self.convolution(inputs), self.running_mean, self.running_var, training=self.training
        )
        return self.head(features.relu().mean((2, 3)))  # type: ignore[no-any-return]


class Closing(Net):
    """Its copies compute with the weights of this one, side by side with their own."""

    def __init__(self, collect: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.more, self.rest = (nn.Parameter(torch.ones(4, 8)) for _ in range(2))
        self.joined = lambda: collect(self.more, self.rest)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + self.joined().sum()  # type: ignore[no-any-return]


class Lazy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(4)


def with_a_scripted_part() -> nn.Module:
    network = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        network.head = nn.Sequential(network.head, torch.jit.script(nn.ReLU()))
    return network


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Closing(lambda *both: torch.cat(both)), ConfigError, "make it a method"),
        (lambda: Closing(lambda *both: torch.stack(both)), ConfigError, "make it a method"),
        (
            lambda: Closing(lambda *both: torch.einsum("ij,ij->i", both)),
            ConfigError,
            "make it a method",
        ),
        (with_a_scripted_part, CheckpointError, "'head.1' is TorchScript"),
        (TwoInputs, ConfigError, r"takes 2 inputs \(inputs, more\), expected the images alone"),
        (TwoHeads, ConfigError, "let its forward return the one to invert"),
        (Lazy, ConfigError, "give it one batch first"),
        (Detached, ConfigError, "let its forward return those"),
        (Functional, CheckpointError, "no BatchNorm layer, .* use nn.BatchNorm2d"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_do(
    make: Callable[[], nn.Module], error: type[Exception], words: str
) -> None:
    with (
        pytest.raises(error, match=words) as raised,
        teacher_at_hand(make(), image_size=8, mean=(0.5,), std=(0.25,), needs_batch_norm=True),
    ):
        pass
    assert "--arch" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_number_of_dreams_has_the_name_of_its_flag_too(tmp_path: Path) -> None:
    network = trained(Net)
    options = {**FACTS, "progress": False, "steps": 2, "compile": "off"}
    assert dreamforge.synth(network, tmp_path / "few.h5", n=4, **options).num_images == 4
    with pytest.raises(TypeError, match="'n' and 'num_images', which are the same"):
        synth(network, tmp_path, num_images=4, n=4)


@pytest.mark.parametrize(
    "options",
    [{"overwrite": "no"}, {"embed_teacher": 1}, {"progress": "yes"}, {"license": 3}],
)
def test_arguments_of_another_type_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name}: found"):
        synth(Net(), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_arguments_of_none_are_the_usual_ones(tmp_path: Path) -> None:
    options = {"overwrite": None, "embed_teacher": None, "progress": None, "license": None}
    dreams = synth(trained(Net), tmp_path, **options)
    assert dreams.manifest.provenance["license"] == "unspecified"


@pytest.mark.parametrize("options", [{"overwrite": "no"}, {"progress": "no"}])
def test_a_run_does_not_take_no_for_yes(options: dict[str, Any], tmp_path: Path) -> None:
    network = trained(Net)
    dreams = synth(network, tmp_path)
    with pytest.raises(ConfigError, match="found 'no'"):
        recover.run(dreams, **{"teacher": network, "out": tmp_path / "s", **QUICK, **options})


def test_images_without_values_are_refused(tmp_path: Path) -> None:
    network = trained(Net)
    dreams = synth(network, tmp_path)
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long()
    for real in ((images.to("meta"), labels), (images, labels.to("meta"))):
        with pytest.raises(IncompatibleError, match="on the device meta"):
            recover.run(dreams, teacher=network, out=tmp_path / "s", eval_data=real, **QUICK)


def pruned() -> nn.Module:
    network = Net()
    prune.l1_unstructured(network.convolution, "weight", 0.5)
    return network


def weight_normed() -> nn.Module:
    network = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and there
        nn.utils.weight_norm(network.convolution)
    return network


@pytest.mark.parametrize("make", [pruned, weight_normed])
def test_weights_that_a_forward_has_computed_do_not_keep_a_network_from_being_copied(
    make: Callable[[], nn.Module],
) -> None:
    network = trained(make)  # with gradients: the layer's weight remembers what it is made of
    images = torch.randn(2, 3, 8, 8)
    weight = network.convolution.weight
    with teacher_at_hand(network, image_size=8, mean=(0.5,), std=(0.25,)) as teacher:
        with torch.no_grad():
            assert torch.equal(teacher.network(images), network(images))
        back = student_of(network, teacher.network.state_dict())
    assert torch.equal(back(images), network(images))
    assert weight.grad_fn is not None  # which is left as it is


def test_a_view_that_follows_a_weight_keeps_a_network_from_being_copied() -> None:
    """Its copy would not follow the copied weight: nothing that prunes that had an effect."""
    network = Net()
    network.turned = network.head.weight.t()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="cannot be copied"):
        plain_copy(network)
