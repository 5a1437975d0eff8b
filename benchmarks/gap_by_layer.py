"""Where a gap to real images comes from: what students miss of the teacher, layer by layer.

    python benchmarks/gap_by_layer.py show --teacher resnet20.pt --real cifar/test \
        --dreams dreams.h5 dreams-0-s0.95/student.safetensors real-0-s0.95/student.safetensors

Three Markdown tables, each with a column for every pair of student and images (real, dreams). The
first has the share of each layer's features that the student misses: 0 if it has the teacher's, 1
if it is as far off as the mean feature (``recover/features.py``, with variances of the teacher on
those images). The second has how its logits correlate with the teacher's (each image's mean taken
off), by which factor they are smaller, and how often both answer the same. The third is of the
images alone: quantiles of the teacher's margin, the highest logit minus the second.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from summary import markdown
from torch import Tensor, nn

from recover.features import Key, feature_scales, features_of
from shared.cli import Tool
from shared.cli_options import teacher_arguments, teacher_options
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.evaldata import open_eval_data
from shared.images import to_pixels
from shared.metrics import agreement
from shared.seeding import generator
from shared.teacher import Teacher, load_teacher

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def missed(found: Mapping[Key, Tensor], targets: Mapping[Key, Tensor]) -> dict[Key, float]:
    """Return by layer the share of the teacher's features that a student misses.

    Args:
        found: The student's :func:`features`.
        targets: The teacher's, of the same images.

    Raises:
        IncompatibleError: If student and teacher have no layer in common.
    """
    shares = {
        key: float((found[key] - targets[key]).square().mean() * scale)
        for key, scale in feature_scales(targets).items()
        if key in found and found[key].shape == targets[key].shape
    }
    if not shares:
        raise IncompatibleError("found no layer that student and teacher share; expected one")
    return shares


def features(network: nn.Module, teacher: Teacher, images: Tensor) -> dict[Key, Tensor]:
    """Return what the layers of ``network`` take in, of all images at once.

    Args:
        network: In evaluation mode, on the CPU.
        teacher: Whose preprocessing it has.
        images: uint8 ``(N, C, H, W)``.
    """
    with torch.no_grad(), features_of(network) as found:
        network(teacher.normalize(to_pixels(images)))
    return found


def likeness(logits: Tensor, targets: Tensor) -> tuple[float, float, float]:
    """Return how float32 logits ``(N, K)`` match the teacher's.

    Correlation and slope over all images and classes, each image's mean taken off, and the share of
    images with the same answer: 1, 1, 1 for equal logits.
    """
    centered, wanted = (each - each.mean(1, keepdim=True) for each in (logits, targets))
    common = (centered * wanted).sum()
    return (
        float(common / (centered.norm() * wanted.norm())),
        float(common / wanted.square().sum()),
        agreement(logits, targets),
    )


def margins(logits: Tensor) -> list[float]:
    """Return the :data:`QUANTILES` of the highest minus the second logit of ``(N, K)``."""
    first, second = logits.float().topk(2, dim=1).values.unbind(1)
    return torch.quantile(first - second, torch.tensor(QUANTILES)).tolist()


@click.group(cls=Tool, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Find where a gap to real images comes from."""


@main.command("show")
@click.argument(
    "students", metavar="STUDENTS...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--teacher", type=click.Path(path_type=Path), required=True)
@teacher_options
@click.option("--real", required=True, help="real images, as recover run --eval-data")
@click.option("--dreams", type=click.Path(path_type=Path), required=True)
@click.option("--n", "num_images", default=1000, show_default=True, help="images of each")
def show(
    students: tuple[Path, ...],
    teacher: Path,
    real: str,
    dreams: Path,
    num_images: int,
    **options: Any,
) -> None:
    """Print what STUDENTS miss of the teacher on real images and on dreams."""
    loaded = load_teacher(teacher, **teacher_arguments(options))
    images = open_eval_data(real, loaded.spec).images
    order = torch.randperm(len(images), generator=generator(0, "gap by layer"))
    dream_set = DreamSet.open(dreams)
    shown = {
        "real": images[order[:num_images]],
        "dreams": dream_set.read(0, min(num_images, dream_set.num_images)).images,
    }
    networks = dict(zip(_names(students), map(load_teacher, students), strict=True))
    by_layer, answers = {}, {}
    for kind, chosen in shown.items():
        targets, wanted = features(loaded.network, loaded, chosen), loaded.logits(chosen)
        for name, student in networks.items():
            found = features(student.network, loaded, chosen)
            by_layer[f"{name}, on {kind}"] = missed(found, targets)
            answers[f"{name}, on {kind}"] = likeness(student.logits(chosen), wanted)
    columns = [f"{name}, on {kind}" for name in networks for kind in shown]
    click.echo(_layers({name: by_layer[name] for name in columns}))
    rows = [[name, *(f"{value:.3f}" for value in answers[name])] for name in columns]
    click.echo(markdown(["logits of", "correlation", "slope", "same answer"], rows))
    quantiles = [
        [kind, *(f"{value:.1f}" for value in margins(loaded.logits(chosen)))]
        for kind, chosen in shown.items()
    ]
    click.echo(markdown(["margin on", *(f"{100 * at:g} %" for at in QUANTILES)], quantiles))


def _names(students: Sequence[Path]) -> list[str]:
    """Return what tells the students apart: their folders' names, or else the whole paths."""
    names = [path.parent.name or path.stem for path in students]
    return names if len(set(names)) == len(names) else [str(path) for path in students]


def _layers(by_layer: Mapping[str, Mapping[Key, float]]) -> str:
    keys = list(next(iter(by_layer.values())))
    rows = [
        [key[0], *(f"{shares[key]:.3f}" if key in shares else "-" for shares in by_layer.values())]
        for key in keys
    ]
    return markdown(["missed before", *by_layer], rows)


if __name__ == "__main__":
    main()
