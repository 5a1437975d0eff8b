"""What first BatchNorm layers remember of the inputs' scale, and a twin to try it on.

    python benchmarks/input_scale.py table resnet20.th cifar10-resnet20.safetensors
    python benchmarks/input_scale.py fold resnet20.th unit.pth

`table` prints mean and spread of the inputs that each checkpoint was trained on, as its weights
tell, and by what factor each way to scale pixels explains the spread badly; `-` where the mean
would lie outside of black and white, or has an unlikely tint. What is recorded, or usual for the
architecture, is in the first of these columns.

`fold` writes the twin of a network that takes pixels in [0, 1]: mean and std go into the first
convolution and the BatchNorm behind it. Of images it sees the same, but at their zero-padded
border. Nothing in the file says what inputs it takes.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from summary import markdown

from shared.errors import ConfigError, DreamforgeError
from shared.input_scale import CONVENTIONS, Remembered, first_layers, remembered_inputs
from shared.teacher import Teacher, load_teacher


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="what checkpoints remember")
    table.add_argument("teachers", type=Path, nargs="+")
    table.add_argument("--arch", help="of all of them, where the tensors do not tell")
    table.add_argument("--image-size", type=int)
    fold = commands.add_parser("fold", help="write the twin for pixels in [0, 1]")
    fold.add_argument("teacher", type=Path)
    fold.add_argument("out", type=Path)
    arguments = parser.parse_args(words)
    try:
        if arguments.command == "fold":
            torch.save(folded(load_teacher(arguments.teacher)), arguments.out)
        else:
            print(remembered_table(arguments.teachers, arguments.arch, arguments.image_size))
    except DreamforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def remembered_table(paths: Sequence[Path], arch: str | None, image_size: int | None) -> str:
    """Return the table as Markdown."""
    head = ["checkpoint", "mean of the inputs", "spread", "as taken"]
    rows = []
    for path in paths:
        teacher = load_teacher(path, architecture=arch, image_size=image_size)
        remembered = remembered_inputs(teacher.network, teacher.spec.image_shape)
        rows.append([path.name, *_cells(teacher, remembered)])
    return markdown([*head, *(convention.words for convention in CONVENTIONS)], rows)


def _cells(teacher: Teacher, remembered: Remembered | None) -> list[str]:
    if remembered is None:
        return ["-"] * (3 + len(CONVENTIONS))
    spec, channels = teacher.spec, len(remembered.mean)
    factors = [remembered.misfit(spec.mean, spec.std)]
    for convention in CONVENTIONS:
        misfit = remembered.misfit((convention.mean,) * channels, (convention.std,) * channels)
        factors.append(math.inf if remembered.is_tinted(convention) else misfit)
    mean = ", ".join(f"{value:.2f}" for value in remembered.mean)
    told = ["-" if math.isinf(factor) else f"{math.exp(factor):.1f}" for factor in factors]
    return [mean, f"{remembered.spread:.2f}", *told]


def folded(teacher: Teacher) -> dict[str, torch.Tensor]:
    """Return the state dict of the network's twin that takes pixels in [0, 1].

    Raises:
        ConfigError: If the network does not begin with a convolution and a BatchNorm.
    """
    layers = first_layers(teacher.network, teacher.spec.image_shape)
    if layers is None:
        raise ConfigError("the network does not begin with a convolution and a BatchNorm")
    convolution, norm = layers
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (teacher.spec.mean, teacher.spec.std)
    )
    with torch.no_grad():
        shift = (convolution.weight * (mean / std)).sum((1, 2, 3))
        convolution.weight.div_(std)
        norm.running_mean.add_(shift)
    return teacher.network.state_dict()


if __name__ == "__main__":
    raise SystemExit(main())
