"""Small networks and dream sets for the tests of recover."""

import copy
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result
from conftest import blobs
from dreamset_fixtures import write_dream_set
from PIL import Image
from torch import Tensor, nn

from recover.cli import main
from recover.config import RecoverConfig
from recover.course import take_steps
from recover.distill import Distillation
from recover.features import Key, features_of
from recover.journal import Journal
from recover.masks import dense_masks
from shared.checkpoint import to_safetensors
from shared.distributed import ALONE, Group
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.feed import TensorFeed
from shared.progress import ignore_progress
from shared.teacher import Teacher


def quick_config(**changes: Any) -> RecoverConfig:
    """A run of a second on the tiny teacher, in float32 on the CPU."""
    facts: dict[str, Any] = {
        "sparsity": 0.8,
        "steps": 12,
        "lr": 0.05,
        "batch_size": 16,
        "prune_every": 3,
        "repair_images": 64,
        "mix": "none",
        "shift": 1,
        "flip": False,
        "device": "cpu",
        "precision": "float32",
    }
    return RecoverConfig(**(facts | changes))


def blob_dreams(folder: Path, labeler: Teacher, num_images: int = 128, **options: Any) -> DreamSet:
    """A dream set of two shards whose images are the blobs that the teacher was trained on."""
    images, labels = blobs(num_images, seed=1)
    rows = torch.arange(num_images)
    dreams = DreamBatch(
        images=images,
        labels=labels,
        logits=labeler.logits(images).half(),
        batch=(rows // 8).int(),
        loss=torch.zeros(num_images),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return DreamSet.open(write_dream_set(folder, dreams=dreams, spec=labeler.spec, **options))


def self_contained_dreams(folder: Path, teacher: Teacher) -> DreamSet:
    """The same with the teacher inside."""
    blob = to_safetensors(teacher.network, teacher.spec.to_json())
    return blob_dreams(folder, teacher, teacher=blob)


def prune(*arguments: object) -> Result:
    """Run the command on the CPU."""
    return CliRunner().invoke(main, ["prune", "--device", "cpu", *map(str, arguments)])


def blob_photos(folder: Path, teacher: Teacher, num_images: int) -> Path:
    """Write real images, a folder per class, and return the folder."""
    images, labels = blobs(num_images, seed=5)
    assert teacher.spec.class_names is not None
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        home = folder / teacher.spec.class_names[label]
        home.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(home / f"{number}.png")
    return folder


def begin_distillation(
    teacher: Teacher, config: RecoverConfig, group: Group = ALONE
) -> Distillation:
    """A dense copy of the teacher before its first step, on 64 blobs, on the CPU."""
    config = config.resolve(teacher.spec.image_shape)
    images, labels = blobs(64, seed=2)
    student, device = copy.deepcopy(teacher.network), torch.device("cpu")
    return Distillation(
        student=student,
        teacher=teacher,
        feed=TensorFeed(images, labels, config.batch_size, device, config.seed),
        config=config,
        device=device,
        masks=dense_masks(student),
        group=group,
    )


def run_to_the_end(run: Distillation, folder: Path, saved: list[int] | None = None) -> None:
    """Take all steps, with the rows in ``folder``; ``saved`` gets the step of every checkpoint."""
    take_steps(
        run,
        journal=Journal(folder / "metrics.jsonl"),
        save=lambda run: None if saved is None else saved.append(run.step),
        progress=ignore_progress,
    )


class OddNetwork(nn.Module):
    """Grouped, depthwise and transposed convolutions, no biases, and a weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 2, bias=False)
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.stem(inputs)).relu()
        features = self.up(self.depthwise(self.grouped(features)).relu()).mean((2, 3))
        return self.head(self.second(self.first(features).relu()).relu())


ODD_NUM_WEIGHTS = 8 * 3 * 9 + 8 * 2 * 9 + 8 * 9 + 8 * 8 * 4 + 8 * 8 + 4 * 8


def odd_network(seed: int = 0) -> OddNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OddNetwork()


@torch.no_grad()
def features_beside(
    teacher: Teacher, run: Distillation
) -> tuple[dict[Key, Tensor], dict[Key, Tensor], dict[Key, Tensor]]:
    """Return the student's features of some images, the teacher's, and those that both have."""
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(4, *teacher.spec.image_shape, generator=draws)
    with features_of(teacher.network) as targets:
        teacher.network(images)
    with features_of(run.student.eval()) as features:
        run.student(images)
    return features, targets, run._lesson._shared(targets)
