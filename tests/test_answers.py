"""Networks that answer with sigmoids, or with probabilities: known answers, and whole runs."""

import copy
import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from conftest import IMAGE_SHAPE, blobs
from PIL import Image
from recover_fixtures import quick_config
from torch import Tensor, nn

import dreamforge.cli
import recover.cli
from dreamforge.config import SynthesisConfig
from dreamforge.inversion_loss import InversionLoss
from dreamforge.objective import finding_loss
from dreamforge.units import rescaled
from recover.by_class import class_records, finding_records
from recover.folding import folded
from recover.lesson import Lesson
from recover.loss import distillation_loss
from recover.selection import likeness, overlap
from shared.answers import (
    LastStep,
    answer_as_settled,
    find_last_step,
    has_sigmoids,
    plain_answers,
    settle_answers,
)
from shared.architectures import build_network
from shared.checkpoint import Checkpoint
from shared.confidence import recognised
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError, InputFileError
from shared.evaldata import open_eval_data
from shared.metrics import accuracy, auroc, mean_auroc
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint, teacher_from_checkpoint

FINDINGS = ("top", "left")
SYNTH = ["--steps", "3", "--batch-size", "8", "--precision", "float32", "--device", "cpu"]
RUN = ["--steps", "4", "--batch-size", "8", "--prune-every", "1", "--repair-images", "16"]
RUN += ["--precision", "float32", "--device", "cpu"]
SIZE = ["--image-size", "8", "--mean", "0.5", "--std", "0.25"]


def quadrant_findings(labels: Tensor) -> Tensor:
    """Of a bright quadrant: is it in the upper half, is it in the left one?  bool ``(N, 2)``."""
    return torch.stack([labels < 2, labels % 2 == 0], dim=1)


def trained(num_logits: int) -> nn.Module:
    """A ResNet-8 whose logits are the first findings of bright quadrants."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet8", num_classes=num_logits)
    images, labels = blobs(512)
    inputs, wanted = (images / 255 - 0.5) / 0.25, quadrant_findings(labels)[:, :num_logits].float()
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for step in range(40):
        rows = slice(64 * (step % 8), 64 * (step % 8) + 64)
        loss = F.binary_cross_entropy_with_logits(network(inputs[rows]), wanted[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[1, 2])
def network(request: pytest.FixtureRequest) -> nn.Module:
    return trained(request.param)


@pytest.fixture(scope="module")
def checkpoint(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "teacher.pt"
    torch.save(network.state_dict(), path)
    return path


def names_of(network: nn.Module) -> tuple[str, ...]:
    return FINDINGS[: len(network.state_dict()["linear.bias"])]


def table(folder: Path, names: tuple[str, ...], num_images: int = 40) -> Path:
    """Write blobs as files, and the table of their findings."""
    images, labels = blobs(num_images, seed=7)
    found = quadrant_findings(labels).int().tolist()
    lines = [",".join(["file", "age", *names])]
    for number, (image, values) in enumerate(zip(images, found, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        lines.append(",".join([f"{number}.png", "57", *map(str, values[: len(names)])]))
    path = folder / "findings.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(main: object, *words: object) -> dict:
    result = CliRunner().invoke(main, [*map(str, words), "--json"])  # type: ignore[arg-type]
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_from_checkpoint_to_student_with_findings_all_the_way(
    network: nn.Module, checkpoint: Path, tmp_path: Path
) -> None:
    names = names_of(network)
    (tmp_path / "names.txt").write_text("\n".join(names))
    flags = ["--answers", "sigmoid"] if len(names) > 1 else []  # a single number shows it
    dreams, student, real = tmp_path / "dreams.h5", tmp_path / "student", table(tmp_path, names)

    made = run(
        dreamforge.cli.main,
        *("synth", "--teacher", checkpoint, "--n", 40, "--out", dreams, *flags, *SIZE, *SYNTH),
        *("--class-names", tmp_path / "names.txt", "--embed-teacher"),
    )
    options = ["--dreams", dreams, "--eval-data", real, *RUN]
    report = run(recover.cli.main, "run", *options, "--sparsity", 0.5, "--out", student)
    slim = run(recover.cli.main, "run", *options, "--channels", 0.75, "--out", tmp_path / "slim")
    judged = run(recover.cli.main, "eval", student, "--eval-data", real, "--dreams", dreams)

    assert made["num_images"] == 40
    dream_set = DreamSet.open(dreams)
    spec = dream_set.manifest.teacher
    assert (spec.answers, spec.num_classes) == ("sigmoid", 1 + len(names))
    assert spec.class_names == ("none", *names)
    logits = dream_set.select(torch.arange(40)).logits
    given = recognised(logits, dream_set.labels, "sigmoid")
    assert made["teacher_accuracy_on_dreams"] == pytest.approx(given.float().mean().item())
    sure = logits[:, 1:].float().amax(1).abs().sigmoid()  # of the first choice
    assert made["mean_confidence"] == pytest.approx(sure.mean().item())
    assert torch.equal(logits[:, 0], torch.zeros(40, dtype=torch.float16))
    assert report["teacher"]["accuracy"] > 0.9
    assert report["teacher"]["auroc"] > 0.95
    assert judged["auroc"] == report["recovered"]["auroc"]
    assert judged["accuracy"] == report["recovered"]["accuracy"]
    assert slim["recovered"]["num_nonzero"] < report["teacher"]["num_nonzero"]
    if importlib.util.find_spec("onnxruntime"):
        options = ["--int8", "--dreams", dreams, "--eval-data", real]
        int8 = run(recover.cli.main, "export", student, "--out", tmp_path / "8.onnx", *options)
        assert int8["student_on_real"]["auroc"] == judged["auroc"]
        assert int8["on_real"]["auroc"] == pytest.approx(judged["auroc"], abs=0.05)
        assert int8["on_real"]["accuracy"] == pytest.approx(judged["accuracy"], abs=0.1)
    # What the network itself answers is what its owner's class answers with these weights.
    own = build_network("resnet8", num_classes=len(names)).eval()
    tensors = torch_load(student / "student.safetensors")
    own.load_state_dict(tensors)
    out = tmp_path / "student.pt2"
    run(recover.cli.main, "export", student, "--out", out)
    images = torch.randn(3, *IMAGE_SHAPE)
    torch.testing.assert_close(torch.export.load(out).module()(images), own(images))


def torch_load(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_a_sigmoid_is_the_softmax_of_0_and_its_logit() -> None:
    logits = torch.tensor([[0.0, 1.5], [0.0, -0.3]])

    torch.testing.assert_close(logits.softmax(1)[:, 1], logits[:, 1].sigmoid())
    targets = torch.tensor([1, 0])
    torch.testing.assert_close(finding_loss(logits, targets), F.cross_entropy(logits, targets))


def test_what_else_an_image_shows_costs_nothing_but_where_none_is_wanted() -> None:
    logits = torch.tensor([[0.0, 2.0, 5.0], [0.0, 2.0, 5.0]])

    found = finding_loss(logits[:1], torch.tensor([1]))
    none = finding_loss(logits[1:], torch.tensor([0]))

    torch.testing.assert_close(found, -torch.tensor(2.0).sigmoid().log())
    torch.testing.assert_close(none, (1 + torch.tensor([2.0, 5.0]).exp().sum()).log())


def test_the_distillation_loss_of_one_finding_is_that_of_two_classes() -> None:
    draws = torch.Generator().manual_seed(0)
    student, teacher = F.pad(torch.randn(2, 6, 1, generator=draws), (1, 0))

    for temperature in (1.0, 4.0):
        torch.testing.assert_close(
            distillation_loss(student, teacher, temperature, sigmoids=True),
            distillation_loss(student, teacher, temperature),
        )


def test_the_gradient_is_the_difference_of_the_softened_probabilities() -> None:
    draws = torch.Generator().manual_seed(0)
    student, teacher = F.pad(torch.randn(2, 6, 3, generator=draws), (1, 0))
    student.requires_grad_()

    distillation_loss(student, teacher, 2.0, sigmoids=True).backward()

    expected = 2.0 * ((student / 2).sigmoid() - (teacher / 2).sigmoid()) / 6
    torch.testing.assert_close(student.grad[:, 1:], expected[:, 1:].detach())
    assert torch.equal(student.grad[:, 0], torch.zeros(6))


def test_the_loss_of_sure_answers_stays_finite() -> None:
    student, teacher = torch.tensor([[0.0, 500.0, -500.0]]), torch.tensor([[0.0, -500.0, 500.0]])

    loss = distillation_loss(student, teacher, 1.0, sigmoids=True)

    torch.testing.assert_close(loss, torch.tensor(1000.0))


def test_students_are_taught_every_finding_by_itself() -> None:
    network, student = trained(2), trained(2)
    with torch.no_grad():
        student.linear.bias.add_(torch.tensor([3.0, -5.0]))
    for each in (network, student):
        settle_answers(each, "sigmoid")
    spec = dataclasses.replace(spec_of(FINDINGS), fingerprint=fingerprint(network))
    teacher = Teacher(network=network, spec=spec)
    config = quick_config(feature_weight=0.0, temperature=2.0).resolve(IMAGE_SHAPE)
    images = blobs(8)[0]

    lesson = Lesson(teacher, config, torch.device("cpu"), lambda: images)
    inputs = teacher.normalize(images / 255)

    expected = distillation_loss(student(inputs), network(inputs), 2.0, sigmoids=True)
    torch.testing.assert_close(lesson.loss(student, images), expected, atol=1e-4, rtol=1e-4)
    assert expected > 0.1


def test_a_softmax_goes_without_saying_so_that_digests_stay_what_they_were() -> None:
    spec = spec_of(FINDINGS)

    assert spec.to_json()["answers"] == "sigmoid"
    assert TeacherSpec.from_json(spec.to_json()) == spec
    plain = dataclasses.replace(spec, answers="softmax")
    assert "answers" not in plain.to_json()
    assert TeacherSpec.from_json(plain.to_json()) == plain
    with pytest.raises(ConfigError, match="teacher answers: found 'maybe', expected softmax or"):
        TeacherSpec.from_json(spec.to_json() | {"answers": "maybe"})


def test_overlap_and_divergence_of_known_findings() -> None:
    # Probabilities 3/4 and 1/2 against 1/4 and 1/2.
    student = torch.tensor([[0.0, 3.0, 1.0]]).log().nan_to_num(neginf=0.0)
    teacher = torch.tensor([[0.0, 1 / 3, 1.0]]).log().nan_to_num(neginf=0.0)

    found = likeness(student, teacher, 1, sigmoids=True)

    assert overlap(student, teacher, sigmoids=True).tolist() == pytest.approx([0.75])
    assert found.score == pytest.approx(0.75)
    assert found.divergence == pytest.approx(0.5 * float(torch.tensor(3.0).log()), abs=1e-6)


def test_settled_networks_and_their_copies_answer_with_none_first_and_back() -> None:
    network = trained(2)
    images = torch.randn(3, *IMAGE_SHAPE)
    plain, state = network(images), fingerprint(network)

    settle_answers(network, "sigmoid")

    assert has_sigmoids(network)
    assert has_sigmoids(folded(network))
    assert fingerprint(network) == state
    expected = torch.cat([torch.zeros(3, 1), plain], 1)
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(folded(network)(images), expected, atol=1e-4, rtol=1e-4)
    plain_answers(network)
    assert not has_sigmoids(network)
    assert torch.equal(network(images), plain)


def test_a_step_before_the_network_does_not_hide_what_its_answers_mean() -> None:
    network = trained(2)
    settle_answers(network, "sigmoid")
    spec = dataclasses.replace(spec_of(FINDINGS), fingerprint=fingerprint(network))
    teacher = Teacher(network=network, spec=spec)
    behind = rescaled(teacher, (0.0,) * 3, (1.0,) * 3)
    config = SynthesisConfig(num_images=4, precision="float32").resolve(IMAGE_SHAPE)
    pixels, targets = torch.rand(4, *IMAGE_SHAPE), torch.tensor([0, 1, 2, 1])
    terms = []
    for each in (teacher, behind):
        with InversionLoss(each.network, config, torch.device("cpu"), torch.float32) as loss_of:
            terms.append(loss_of(each.normalize(pixels), targets)[1]["class"])

    torch.testing.assert_close(terms[1], terms[0])
    torch.testing.assert_close(terms[0], finding_loss(network(teacher.normalize(pixels)), targets))


class Ending(nn.Module):
    """A small network of somebody's own, whose last step is ``end``."""

    def __init__(self, num_logits: int, end: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.head, self.end = nn.Linear(8, num_logits), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.body(x).mean((2, 3))))


class Functional(Ending):
    """The same, but that the probabilities are made by a function."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.sigmoid(x) if self.several else F.softmax(x, dim=1)

    several = False


class SeveralFunctional(Functional):
    several = True


class Unflattened(Ending):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, None, None]


class OneAtATime(Ending):
    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.body(x).mean((2, 3)).view(-1)[None]))


class Squeezed(Ending):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


def sigmoid_1() -> nn.Module:
    return Ending(1, nn.Sigmoid())


def sigmoid_3() -> nn.Module:
    return Ending(3, nn.Sigmoid())


def softmax_3() -> nn.Module:
    return Ending(3, nn.Softmax(dim=1))


def log_softmax_3() -> nn.Module:
    return Ending(3, nn.LogSoftmax(dim=1))


def logits_3() -> nn.Module:
    return Ending(3, nn.Identity())


def squeezed_1() -> nn.Module:
    return Squeezed(1, nn.Identity())


def squeezed_sigmoid_1() -> nn.Module:
    return Squeezed(1, nn.Sigmoid())


def unflattened_1() -> nn.Module:
    return Unflattened(1, nn.Sigmoid())


def unflattened_3() -> nn.Module:
    return Unflattened(3, nn.Identity())


def one_at_a_time() -> nn.Module:
    return OneAtATime(3, nn.Identity())


def functional_softmax_3() -> nn.Module:
    return Functional(3, nn.Identity())


def functional_sigmoid_3() -> nn.Module:
    return SeveralFunctional(3, nn.Identity())


MEANT = [
    (sigmoid_1, "sigmoid", "sigmoid", 2),
    (sigmoid_3, "sigmoid", "sigmoid", 4),
    (softmax_3, "softmax", "softmax", 3),
    (functional_softmax_3, "softmax", "softmax", 3),
    (functional_sigmoid_3, "sigmoid", "sigmoid", 4),
    (unflattened_1, "sigmoid", "sigmoid", 2),
    (unflattened_3, None, "softmax", 3),
    (log_softmax_3, None, "softmax", 3),
    (logits_3, None, "softmax", 3),
    (squeezed_1, None, "sigmoid", 2),
    (squeezed_sigmoid_1, "sigmoid", "sigmoid", 2),
]


def own_teacher(factory: object, **options: object) -> Teacher:
    torch.manual_seed(0)
    tensors = factory().state_dict()  # type: ignore[operator]
    return teacher_from_checkpoint(
        Checkpoint(tensors=tensors, metadata={}),
        architecture=f"test_answers:{factory.__name__}",  # type: ignore[attr-defined]
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("factory", "last_step", "answers", "num_classes"), MEANT)
def test_what_a_network_computes_last_tells_what_its_answers_mean(
    factory: object, last_step: str | None, answers: str, num_classes: int
) -> None:
    teacher = own_teacher(factory, image_size=8)
    plain = factory().eval()  # type: ignore[operator]
    plain.load_state_dict(teacher.network.state_dict())
    inputs = torch.randn(5, 3, 8, 8)

    found = find_last_step(plain, inputs)
    is_function = "functional" in factory.__name__  # type: ignore[attr-defined]
    assert (None if found is None else found.kind) == last_step
    assert (found is not None and found.layer is None) == is_function
    assert (teacher.spec.answers, teacher.spec.num_classes) == (answers, num_classes)
    logits = plain.head(plain.body(inputs).mean((2, 3)))
    if answers == "sigmoid":
        logits = F.pad(logits, (1, 0))
    for ours in (teacher.network(inputs), folded(teacher.network)(inputs)):
        torch.testing.assert_close(ours.log_softmax(1), logits.log_softmax(1), atol=1e-4, rtol=1e-4)
        if answers == "sigmoid":
            torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)
    said = [text for text in teacher.spec.assumptions if "since" in text]
    assert any("a sigmoid" in text for text in said) == (answers == "sigmoid")
    assert any("in a function" in text for text in said) == is_function
    before = plain(inputs)
    plain_answers(teacher.network)
    torch.testing.assert_close(teacher.network(inputs), before)


@pytest.mark.parametrize("factory", [case[0] for case in MEANT])
def test_what_has_the_answers_of_the_network_alone_can_answer_like_it(factory: object) -> None:
    teacher = own_teacher(factory, image_size=8)
    alone = nn.Sequential(copy.deepcopy(teacher.network))
    plain_answers(alone)

    answer_as_settled(teacher.network, alone)

    inputs = torch.randn(5, 3, 8, 8)
    expected, found = teacher.network(inputs), alone(inputs)
    # The logarithms of probabilities are logits, but for what all of an image's have in common.
    torch.testing.assert_close(found.log_softmax(1), expected.log_softmax(1))


@pytest.mark.parametrize(
    "make", [lambda: Ending(2, nn.Sigmoid()), lambda: Ending(2, nn.Softmax(1))]
)
def test_a_layer_that_is_sure_of_itself_still_tells_where_to_go(make: object) -> None:
    torch.manual_seed(0)
    network = make().eval()  # type: ignore[operator]
    with torch.no_grad():
        network.head.weight.mul_(1e6)
    inputs = torch.randn(4, 3, 8, 8, requires_grad=True)
    settle_answers(network, "sigmoid", find_last_step(network, inputs))

    logits = network(inputs)[:, 1:]
    (gradient,) = torch.autograd.grad(logits.sum(), inputs)

    assert logits.abs().min() > 200  # far beyond what is left of a probability
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_a_network_for_single_images_is_told_from_one_for_other_sizes() -> None:
    with pytest.raises(ConfigError, match=r"one_at_a_time takes a single image at a time"):
        own_teacher(one_at_a_time, image_size=8)


def test_more_rows_than_images_make_one_ask_for_the_size() -> None:
    class Rows(Ending):
        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.head(self.body(x).permute(0, 2, 3, 1).reshape(-1, 8)))

    match = re.escape("images of 8x8 what it takes (--image-size)?")
    globals()["rows_3"] = lambda: Rows(3, nn.Identity())
    globals()["rows_3"].__name__ = "rows_3"
    with pytest.raises(ConfigError, match=match):
        own_teacher(globals()["rows_3"], image_size=8)


class Gray(nn.Module):
    """Gray images, flattened as tutorials do: it works with contiguous feature maps alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x.view(x.size(0), -1))


def gray() -> nn.Module:
    return Gray()


def test_gray_images_do_not_hide_that_a_network_wants_contiguous_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = gray()
    network(torch.randn(64, 1, 8, 8))  # for BatchNorm to remember something
    torch.save(network.state_dict(), tmp_path / "gray.pt")
    teacher = ["--teacher", tmp_path / "gray.pt", "--arch", "test_answers:gray"]
    dreams = tmp_path / "d.h5"

    made = run(dreamforge.cli.main, "synth", *teacher, *SIZE, *SYNTH, "--n", 40, "--out", dreams)
    report = run(
        recover.cli.main,
        *("run", *teacher, "--dreams", dreams, "--sparsity", 0.5, *RUN, "--out", tmp_path / "s"),
    )

    assert made["num_images"] == 40
    assert report["num_kept"] == round(0.5 * report["num_weights"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sure_probabilities_become_finite_logits_that_rise(dtype: torch.dtype) -> None:
    network = nn.Sigmoid()
    settle_answers(network, "sigmoid", LastStep("sigmoid"))

    rising = network(torch.linspace(-200, 200, 401)[:, None].to(dtype))[:, 1]

    assert rising.isfinite().all()
    assert (rising.diff() >= 0).all()
    assert rising[0] < -50
    assert rising[-1] > 4.8  # of bfloat16 1 - 2^-7 is the largest below 1


def test_a_single_image_keeps_its_row_though_the_network_squeezes_it_away() -> None:
    assert own_teacher(squeezed_1, image_size=8).network(torch.randn(1, 3, 8, 8)).shape == (1, 2)


@pytest.mark.parametrize(
    ("factory", "given", "why"),
    [
        (squeezed_1, "softmax", "expected sigmoid, since it answers with a single number"),
        (sigmoid_3, "softmax", "expected sigmoid, since sigmoid is the last thing that it comp"),
        (softmax_3, "sigmoid", "expected softmax, since softmax is the last thing that it comp"),
    ],
)
def test_answers_that_the_network_cannot_mean_are_refused(
    factory: object, given: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"--answers {given}: {why}"):
        own_teacher(factory, image_size=8, answers=given)


def test_mixtures_and_standardized_logits_are_refused_for_sigmoids(
    network: nn.Module, checkpoint: Path, tmp_path: Path
) -> None:
    flags = ["--answers", "sigmoid", *SIZE]
    synth = ["synth", "--teacher", str(checkpoint), *flags, *SYNTH, "--n", "40"]

    mixed = CliRunner().invoke(
        dreamforge.cli.main, [*synth, "--targets", "pairs", "--out", str(tmp_path / "m.h5")]
    )
    run(dreamforge.cli.main, *synth, "--out", tmp_path / "d.h5")
    words = ["run", "--dreams", str(tmp_path / "d.h5"), "--teacher", str(checkpoint), *RUN]
    other = CliRunner().invoke(
        recover.cli.main, [*words, "--answers", "softmax", "--out", str(tmp_path / "o")]
    )
    standardized = CliRunner().invoke(
        recover.cli.main, [*words, "--standardize-logits", "--out", str(tmp_path / "s")]
    )

    assert (mixed.exit_code, standardized.exit_code) == (2, 2)
    assert "--targets pairs: found a teacher that answers with sigmoids" in mixed.stderr
    assert "--standardize-logits: found a teacher that answers with" in standardized.stderr
    assert not (tmp_path / "m.h5").exists()
    if len(names_of(network)) == 1:
        assert other.exit_code == 2
        assert "--answers softmax: expected sigmoid" in other.stderr
    else:
        assert other.exit_code == 4
        assert "dream set: made of a sigmoid, the teacher's answers are taken" in other.stderr


def spec_of(names: tuple[str, ...] | None = None, num_findings: int = 2) -> TeacherSpec:
    return TeacherSpec(
        architecture="resnet8",
        num_classes=1 + num_findings,
        image_shape=IMAGE_SHAPE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        class_names=None if names is None else ("none", *names),
        fingerprint="0" * 64,
        answers="sigmoid",
    )


def test_a_table_goes_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = table(tmp_path, FINDINGS, num_images=6)
    labels = quadrant_findings(blobs(6, seed=7)[1])

    data = open_eval_data(str(path), spec_of(("left", "cough", "top")[:3], num_findings=3))

    assert data.images.shape == (6, *IMAGE_SHAPE)
    assert torch.equal(data.images, blobs(6, seed=7)[0])
    assert data.labels[:, 0].tolist() == labels[:, 1].int().tolist()
    assert data.labels[:, 2].tolist() == labels[:, 0].int().tolist()
    assert data.labels[:, 1].tolist() == [-1] * 6
    assert data.remarks[0].endswith(": nothing is known there of cough")


def test_a_table_without_known_names_goes_by_order_aloud(tmp_path: Path) -> None:
    path = table(tmp_path, FINDINGS, num_images=3)
    path.write_text(path.read_text().replace("57,1", "57,-1.0").replace("57,0", "57,"))

    with pytest.raises(IncompatibleError, match=r"found 3 findings, expected the teacher's 2"):
        open_eval_data(str(path), spec_of())
    path.write_text(path.read_text().replace("age,", "").replace("57,", ""))
    data = open_eval_data(str(path), spec_of())

    assert data.labels[:, 0].tolist() == [-1, -1, -1]
    assert "taken to be its in this order: top, left" in data.remarks[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a row of names"),
        ("file,top\n", "expected a row of names"),
        ("file\n0.png\n", "expected a row of names"),
        ("file,top\n0.png\n", "line 2: found 1 cells, expected 2"),
        ("file,top\n\n0.png,maybe\n", "line 3: found 'maybe', expected 1 .present., 0"),
        ("file,top\nnone.png,1\n", "none.png"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    table(tmp_path, FINDINGS, num_images=1)
    (tmp_path / "t.csv").write_text(text)

    with pytest.raises(InputFileError, match=message) as caught:
        open_eval_data(str(tmp_path / "t.csv"), spec_of(FINDINGS))
    assert "\n" not in str(caught.value)


def test_a_table_is_refused_for_a_softmax_and_for_other_names(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    path = table(tmp_path, FINDINGS, num_images=2)

    with pytest.raises(IncompatibleError, match=r"answers with one class per image"):
        open_eval_data(str(path), tiny_teacher.spec)
    with pytest.raises(IncompatibleError, match=r"found the columns age, top, left, expected"):
        open_eval_data(str(path), spec_of(("up", "down")))


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    draws = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (40,), generator=draws).float()  # many ties
    present = torch.rand(40, generator=draws) < 0.3
    positive, negative = scores[present][:, None], scores[~present][None]

    expected = ((positive > negative).float() + 0.5 * (positive == negative).float()).mean()

    assert auroc(scores, present) == pytest.approx(expected.item())
    assert auroc(present.float(), present) == 1
    assert auroc(scores, torch.ones(40, dtype=torch.bool)) is None


def test_accuracy_and_area_leave_out_what_is_not_known() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0], [0.0, -1.0, 2.0], [0.0, 3.0, 3.0]])
    known = torch.tensor([[1, -1], [0, 1], [-1, 0]], dtype=torch.int8)

    assert accuracy(logits, known) == pytest.approx(3 / 4)
    # The first finding's known pair is in order, the second's is not.
    assert mean_auroc(logits, known) == pytest.approx(0.5)
    two, labels = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]]), torch.tensor([0, 1, 0])
    assert mean_auroc(two, labels) == 1
    assert mean_auroc(logits, labels) is None


def test_records_of_one_finding_are_those_of_two_classes() -> None:
    draws = torch.Generator().manual_seed(1)
    student, teacher = F.pad(torch.randn(2, 50, 1, generator=draws), (1, 0))
    labels = torch.randint(0, 2, (50,), generator=draws)

    assert finding_records(student, teacher, labels) == class_records(student, teacher, labels)
    assert finding_records(student, teacher, labels[:, None].to(torch.int8)) == class_records(
        student, teacher, labels
    )


def test_records_count_every_finding_of_an_image() -> None:
    teacher = torch.tensor([[0.0, 1.0, 2.0], [0.0, -1.0, -1.0], [0.0, 1.0, -1.0]])
    student = torch.tensor([[0.0, -1.0, 2.0], [0.0, -1.0, -1.0], [0.0, -1.0, -2.0]])

    none, first, second = finding_records(student, teacher, None)

    assert (none.num_images, none.agreement) == (1, 1.0)
    assert (first.num_images, first.agreement, first.num_confused) == (2, 0.0, 1)
    assert (second.num_images, second.agreement, second.confused_with) == (1, 1.0, None)


def test_a_finding_is_taken_for_what_the_student_alone_gives() -> None:
    # Of three images with finding 1 the student misses it; finding 2, its first choice on all of
    # them, is there for the teacher, too, on two.
    teacher = torch.tensor([[0.0, 1.0, 2.0, -1.0], [0.0, 1.0, 2.0, -1.0], [0.0, 1.0, -1.0, -1.0]])
    student = torch.tensor([[0.0, -1.0, 2.0, -1.0], [0.0, -1.0, 2.0, 1.0], [0.0, -1.0, 2.0, 1.0]])

    _, first, second, _ = finding_records(student, teacher, None)
    _, missed, *_ = finding_records(student[:1], teacher[:1], None)
    _, nothing, *_ = finding_records(-torch.ones(1, 4), teacher[2:], None)

    assert (first.num_images, first.confused_with, first.num_confused) == (3, 3, 2)
    assert (second.confused_with, second.num_confused) == (None, 0)
    assert (missed.agreement, missed.confused_with, missed.num_confused) == (0.0, None, 0)
    assert (nothing.confused_with, nothing.num_confused) == (0, 1)  # none
