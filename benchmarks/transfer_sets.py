"""Transfer sets that are not dreams, as ordinary dream sets: what dreams must beat, and the bound.

    python benchmarks/transfer_sets.py draw leaves --teacher resnet20.pt --n 4096 --out leaves.h5
    python benchmarks/transfer_sets.py choose --teacher resnet20.pt --real cifar/train --out real.h5

Images are drawn, or chosen, into a folder that ``dreamforge.import_images`` reads; labels and
logits are the teacher's answers, and no label of a real image is used but to balance the classes.
Image k of a kind and seed is the same whatever --n is.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image
from torch import Tensor

from dreamforge.import_images import import_images
from dreamforge.noise import initial_inputs
from shared.cli import Tool, command_line
from shared.cli_options import teacher_arguments, teacher_options
from shared.cli_progress import progress_display
from shared.device import describe_device, resolve_device
from shared.errors import ConfigError, IncompatibleError, InputFileError
from shared.evaldata import list_classes, list_images
from shared.images import to_images
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.provenance import provenance
from shared.seeding import generator
from shared.teacher import Teacher, load_teacher

NUM_LEAVES = 512  # cover an image nine times over; what shows are the front ones
SCENES_TOGETHER = 16
LEAST_RADIUS, MOST_RADIUS = 1 / 32, 1 / 2  # of the image's side


def noise(teacher: Teacher, draws: torch.Generator) -> Tensor:
    """Return pixels ``(C, H, W)`` of white noise with the mean and std of the teacher's inputs."""
    return _pixels(teacher, "white", draws)


def fractal(teacher: Teacher, draws: torch.Generator) -> Tensor:
    """Return the same with amplitudes falling as 1/f, the spectrum of photographs (Field 1987)."""
    return _pixels(teacher, "pink", draws)


def leaves(teacher: Teacher, draws: torch.Generator) -> Tensor:
    """Return pixels ``(C, H, W)`` in [0, 1] of dead leaves: disks that lie on one another.

    Radii are distributed as r**-3, so that there is as much to see at every scale (Lee, Mumford
    and Huang 2001); as images to learn from: Baradad et al. 2021 (arXiv:2106.05963).
    """
    channels, height, width = teacher.spec.image_shape
    side = max(height, width)
    # The inverse of the distribution function of r**-3 between the two radii.
    chance = torch.rand(NUM_LEAVES, generator=draws)
    least, most = LEAST_RADIUS**-2, MOST_RADIUS**-2
    radii = side * (least - chance * (least - most)).rsqrt()
    centers = torch.rand(NUM_LEAVES, 2, generator=draws) * torch.tensor([height, width])
    colors = torch.rand(NUM_LEAVES + 1, channels, generator=draws)  # the last: the ground
    down = (torch.arange(height) + 0.5 - centers[:, :1]).square()
    across = (torch.arange(width) + 0.5 - centers[:, 1:]).square()
    covers = down[:, :, None] + across[:, None, :] <= radii.square()[:, None, None]
    covers = torch.cat([covers, torch.ones(1, height, width, dtype=torch.bool)])
    front = covers.to(torch.uint8).argmax(0)  # the first that covers
    return colors[front].permute(2, 0, 1)


def scenes(teacher: Teacher, draws: torch.Generator) -> Tensor:
    """Return pixels ``(C, H, W)`` of what dreams start from, before any step of inversion.

    See :func:`shared.scenes.draw_scenes`. Its unit variance is that of many scenes, so that
    each may have its own contrast: the first of several drawn together.
    """
    drawn = initial_inputs("scenes", SCENES_TOGETHER, teacher.spec.image_shape, draws)
    return teacher.denormalize(drawn)[0]


DRAWN: dict[str, Callable[[Teacher, torch.Generator], Tensor]] = {
    "noise": noise,
    "fractal": fractal,
    "leaves": leaves,
    "scenes": scenes,
}


def draw_images(
    kind: str,
    teacher: Teacher,
    num_images: int,
    seed: int,
    folder: Path,
    progress: ProgressCallback = ignore_progress,
) -> None:
    """Write PNG files of one kind into the only class folder of ``folder``.

    Raises:
        IncompatibleError: If the teacher takes images that are neither gray nor RGB.
    """
    channels = teacher.spec.image_shape[0]
    if channels not in (1, 3):
        raise IncompatibleError(
            f"the teacher takes {channels} channels, PNG files have 1 or 3; use another teacher"
        )
    target = folder / "images"
    target.mkdir(parents=True)
    for number in range(num_images):
        image = to_images(DRAWN[kind](teacher, generator(seed, "transfer set", kind, number)))
        array = image.permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(array).save(target / f"{number:06d}.png")
        if number % 64 == 63:
            progress(Progress(stage="draw", done=number + 1, total=num_images, unit="images"))


def choose_images(
    root: Path, num_images: int, seed: int, folder: Path, *, balanced: bool = True
) -> None:
    """Link a random choice of the images in the class folders of ``root`` into ``folder``.

    Args:
        root: Holds a folder per class.
        num_images: How many.
        seed: Of the choice.
        folder: Gets the same class folders.
        balanced: As many of each class, as far as there are; else any.

    Raises:
        InputFileError: If there are too few.
    """
    ranked: list[tuple[float, str, Path]] = []
    for name in list_classes(root):
        files = list_images(root / name)
        draws = generator(seed, "transfer set", "real", name)
        order = torch.randperm(len(files), generator=draws).tolist()
        chances = torch.rand(len(files), generator=draws).tolist()
        ranks = map(float, order) if balanced else chances
        ranked += [(rank, name, path) for rank, path in zip(ranks, files, strict=True)]
    if len(ranked) < num_images:
        raise InputFileError(f"{root}: {len(ranked)} images, expected {num_images}; lower --n")
    for number, (_, name, path) in enumerate(sorted(ranked)[:num_images]):
        link = folder / name / f"{number:06d}{path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def _pixels(teacher: Teacher, spectrum: str, draws: torch.Generator) -> Tensor:
    inputs = initial_inputs(spectrum, 1, teacher.spec.image_shape, draws)
    return teacher.denormalize(inputs)[0]


@contextmanager
def _scratch(out: Path, name: str) -> Iterator[Path]:
    """Yield a folder called ``name`` beside ``out``, for a moment."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as scratch:
        yield Path(scratch) / name


@click.group(cls=Tool, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make transfer sets that are not dreams, as ordinary dream sets."""


def set_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that :func:`write_set` takes."""
    for option in (
        click.option("--out", type=click.Path(path_type=Path), required=True, help="index file"),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option("--n", "num_images", type=click.IntRange(min=1), default=4096),
        click.option("--device", default="auto", show_default=True),
        teacher_options,
        click.option("--teacher", type=click.Path(path_type=Path), required=True),
    ):
        command = option(command)
    return command


def write_set(
    kind: str,
    options: dict[str, Any],
    fill: Callable[[Teacher, Path, ProgressCallback], None],
    *,
    synthetic: bool,
) -> None:
    """Import what ``fill`` writes into a folder as the dream set ``options["out"]``.

    Args:
        kind: What it is, for the name of the folder.
        options: Of :func:`set_options`.
        fill: Given the teacher, a folder that is not there yet, and whom to tell of its progress.
        synthetic: Whether no real image is in it.

    Raises:
        ConfigError: If there is such a set.
    """
    out: Path = options["out"]
    if out.exists():
        raise ConfigError(f"{out}: is there already; choose another --out")
    device = resolve_device(options["device"])
    teacher = load_teacher(options["teacher"], **teacher_arguments(options))
    facts = provenance(device=describe_device(device), command=command_line())
    facts |= {"synthetic": synthetic, "seed": options["seed"]}
    with progress_display() as progress, _scratch(out, kind) as folder:
        fill(teacher, folder, progress)
        manifest = import_images(
            folder,
            teacher.to(device),
            out,
            facts=facts,
            overwrite=True,  # without an index, shards are what a killed call left
            progress=progress,
        )
    click.echo(f"{out}: {manifest.num_images:,} images")


@main.command()
@click.argument("kind", type=click.Choice(list(DRAWN)))
@set_options
def draw(kind: str, **options: Any) -> None:
    """Draw images of KIND: white noise, 1/f noise or dead leaves."""

    def fill(teacher: Teacher, folder: Path, progress: ProgressCallback) -> None:
        draw_images(kind, teacher, options["num_images"], options["seed"], folder, progress)

    write_set(kind, options, fill, synthetic=True)


@main.command()
@click.option("--real", type=click.Path(path_type=Path), required=True, help="a folder per class")
@click.option("--random", is_flag=True, help="any images; default: as many of each class")
@set_options
def choose(real: Path, **options: Any) -> None:
    """Choose real images: the bound."""

    def fill(teacher: Teacher, folder: Path, progress: ProgressCallback) -> None:
        balanced = not options["random"]
        choose_images(real, options["num_images"], options["seed"], folder, balanced=balanced)

    write_set("real", options, fill, synthetic=False)


if __name__ == "__main__":
    main()
