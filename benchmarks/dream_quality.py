"""What can be said of a dream set without recovering anything on it, beside real images.

    python benchmarks/dream_quality.py measure dreams.h5 --teacher resnet20.pt \
        --second resnet56.th --eval-data cifar/test --out quality.json
    python benchmarks/dream_quality.py recognise dreams.h5 --judge lite2.pth --arch timm:NAME

Of the stored images, 8 bits and unaugmented, and of as many real ones: how far their BatchNorm
statistics are from those that the teacher remembers, how diverse they are within a class, and who
recognises them.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from summary import markdown
from torch import Tensor, nn

from dreamforge.bn_stats import BatchNormMonitor
from dreamforge.objective import bn_kl
from shared.cli import Tool, say
from shared.cli_options import teacher_arguments, teacher_options
from shared.device import resolve_device
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.evaldata import open_eval_data
from shared.files import write_json
from shared.images import to_images, to_pixels
from shared.metrics import accuracy, default_batch_size
from shared.seeding import generator
from shared.teacher import Teacher, load_teacher

BATCH_SIZE = 256  # images that share statistics: the default of synthesis up to 64 px


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Measures of labelled images.

    Attributes:
        num_images: How many.
        bn_distance: See :func:`bn_distance`.
        diversity: See :func:`cosine_diversity`, of the teacher's last features.
        effective_rank: See :func:`effective_rank`, of the same.
        teacher_accuracy: Fraction for which the teacher's answer is the label.
        second_accuracy: The same of another network, None without one.
    """

    num_images: int
    bn_distance: float
    diversity: float
    effective_rank: float
    teacher_accuracy: float
    second_accuracy: float | None


def measure(images: Tensor, labels: Tensor, teacher: Teacher, second: Teacher | None) -> Quality:
    """Return all measures of uint8 ``(N, C, H, W)`` images and their int64 ``(N,)`` labels."""
    features = last_features(teacher, images)
    return Quality(
        num_images=len(images),
        bn_distance=bn_distance(teacher, images),
        diversity=cosine_diversity(features, labels),
        effective_rank=effective_rank(features, labels),
        teacher_accuracy=accuracy(teacher.logits(images), labels),
        second_accuracy=accuracy(second.logits(images), labels) if second else None,
    )


@torch.no_grad()
def bn_distance(teacher: Teacher, images: Tensor, batch_size: int = BATCH_SIZE) -> float:
    """Return the KL distance, in nats, of :func:`dreamforge.objective.bn_kl`.

    Its mean over whole batches drawn at random, as distillation draws them: the images of one
    synthesis batch, which were moved together, are not kept together. Real images are not at 0:
    a batch has statistics of its own.

    Args:
        teacher: Whose BatchNorms are asked.
        images: uint8 ``(N, C, H, W)``.
        batch_size: One smaller batch if there are fewer images.
    """
    order = torch.randperm(len(images), generator=generator(0, "dream quality"))
    size = min(batch_size, len(images))
    distances = []
    with BatchNormMonitor(teacher.network) as monitor:
        for rows in order[: len(images) // size * size].split(size):
            teacher.network(teacher.normalize(to_pixels(images[rows].to(teacher.device))))
            distances.append(float(bn_kl(monitor.take())))
    return sum(distances) / len(distances)


@torch.no_grad()
def last_features(teacher: Teacher, images: Tensor) -> Tensor:
    """Return what the last linear layer gets: float32 ``(N, D)`` on the CPU.

    Raises:
        IncompatibleError: If the network does not end in a linear layer.
    """
    linear = [module for module in teacher.network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise IncompatibleError(
            f"{teacher.spec.architecture}: no linear layer, expected one at the end of the teacher"
        )
    found: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(
        lambda _, inputs: found.append(inputs[0].flatten(1).float().cpu())
    )
    try:
        for part in images.split(default_batch_size(images)):
            teacher.network(teacher.normalize(to_pixels(part.to(teacher.device))))
    finally:
        hook.remove()
    return torch.cat(found)


def cosine_diversity(features: Tensor, labels: Tensor) -> float:
    """Return the mean cosine distance, in [0, 2], of two different images of one class.

    0 where every class has collapsed to one image. Over all such pairs, in time linear in N: the
    cosines of a class sum to the squared length of the sum of its unit vectors.

    Args:
        features: float32 ``(N, D)``.
        labels: int64 ``(N,)``.
    """
    unit = F.normalize(features.double(), dim=1)
    total, num_pairs = 0.0, 0
    for label in labels.unique():
        members = unit[labels == label]
        pairs = len(members) * (len(members) - 1)
        total += pairs - (float(members.sum(0).square().sum()) - float(members.square().sum()))
        num_pairs += pairs
    return max(0.0, total / num_pairs) if num_pairs else 0.0


def effective_rank(features: Tensor, labels: Tensor) -> float:
    """Return in how many directions the images of a class differ from its mean, pooled.

    The exponential of the entropy of the normalised singular values (Roy and Vetterli 2007); 0
    where every class has collapsed to one image. It grows with N: compare equal numbers.

    Args:
        features: float32 ``(N, D)``.
        labels: int64 ``(N,)``.
    """
    centered = features.double()
    for label in labels.unique():
        rows = labels == label
        centered[rows] -= centered[rows].mean(0)
    values = torch.linalg.svdvals(centered)
    if float(values.max()) <= 1e-6 * float(features.abs().max()):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


@click.group(cls=Tool, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure a dream set without recovering anything on it."""


@main.command("measure")
@click.argument("dreams_path", metavar="DREAMS", type=click.Path(path_type=Path))
@click.option("--teacher", type=click.Path(path_type=Path), required=True)
@teacher_options
@click.option("--second", type=click.Path(path_type=Path), help="checkpoint of another network")
@click.option("--eval-data", required=True, help="real images, as for recover run")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON file")
@click.option("--device", default="auto", show_default=True)
def measure_set(
    dreams_path: Path,
    teacher: Path,
    second: Path | None,
    eval_data: str,
    out: Path,
    device: str,
    **options: Any,
) -> None:
    """Write the measures of DREAMS, and of as many real images, as JSON."""
    where = resolve_device(device)
    dreams = DreamSet.open(dreams_path)
    loaded = load_teacher(teacher, spec=dreams.manifest.teacher, **teacher_arguments(options))
    loaded = loaded.to(where)
    other = _open_second(second, loaded).to(where) if second else None
    rows = dreams.read(0, dreams.num_images)
    real = open_eval_data(eval_data, loaded.spec)
    order = torch.randperm(len(real.images), generator=generator(0, "dream quality", "real"))
    chosen = order[: len(rows)]
    record = {
        "dreams": asdict(measure(rows.images, rows.labels, loaded, other)),
        "real": asdict(measure(real.images[chosen], real.labels[chosen], loaded, other)),
        "synthesis_seconds": dreams.manifest.provenance.get("seconds"),
    }
    write_json(out, record)
    click.echo(f"{out}: {dreams.num_images:,} dreams measured")


@main.command("recognise")
@click.argument(
    "sets", metavar="DREAMS...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--judge", type=click.Path(path_type=Path), required=True, help="its checkpoint")
@teacher_options
@click.option("--device", default="auto", show_default=True)
def recognise_sets(sets: tuple[Path, ...], judge: Path, device: str, **options: Any) -> None:
    """Print how many of DREAMS their teacher and another network, the judge, recognise.

    Images are made to fit the judge; --arch, --image-size, --mean and --std are the judge's.
    """
    network = load_teacher(judge, **teacher_arguments(options)).to(resolve_device(device))
    for assumption in network.spec.assumptions:
        say(f"--judge: assumed: {assumption}")
    rows = []
    for path in sets:
        dreams = DreamSet.open(path)
        if dreams.manifest.teacher.num_classes != network.spec.num_classes:
            raise IncompatibleError(
                f"--judge {judge}: {network.spec.num_classes} classes, expected the "
                f"{dreams.manifest.teacher.num_classes} of {path}"
            )
        batch = dreams.read(0, dreams.num_images)
        shares = [accuracy(batch.logits, batch.labels), *recognised(network, batch)]
        rows.append([path.stem, f"{dreams.num_images:,}", *(f"{100 * s:.1f}" for s in shares)])
    judged = network.spec.architecture
    titles = ["dreams", "images", "teacher, %", f"{judged}, %", "in its first five, %"]
    click.echo(markdown(titles, rows))


def recognised(judge: Teacher, batch: DreamBatch) -> tuple[float, float]:
    """Return the fractions of dreams whose label is the judge's first, and among its first five.

    Args:
        judge: For as many classes.
        batch: Of any size in pixels: resized bicubically, with antialiasing.
    """
    size = judge.spec.image_shape[1:]
    answers = []
    for part in batch.images.split(default_batch_size(batch.images)):
        pixels = to_pixels(part)
        if tuple(pixels.shape[2:]) != size:
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
        answers.append(judge.logits(to_images(pixels)))
    order = torch.cat(answers).topk(min(5, judge.spec.num_classes), dim=1).indices
    hits = order == batch.labels.unsqueeze(1)
    return hits[:, 0].double().mean().item(), hits.any(1).double().mean().item()


def _open_second(path: Path, teacher: Teacher) -> Teacher:
    second = load_teacher(path, image_size=teacher.spec.image_shape[1:])
    for assumption in second.spec.assumptions:
        say(f"--second: assumed: {assumption}")
    facts = [(spec.num_classes, spec.image_shape) for spec in (second.spec, teacher.spec)]
    if facts[0] != facts[1]:
        raise IncompatibleError(
            f"--second {path}: (classes, image shape) {facts[0]}, expected the teacher's {facts[1]}"
        )
    return second


if __name__ == "__main__":
    main()
