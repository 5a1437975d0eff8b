"""Networks of the same tensors: which of them do a checkpoint's BatchNorm layers remember?

    python benchmarks/misfits.py --arch resnet20,resnet20_end --eval-data cifar10/test resnet20.th

For every checkpoint and architecture a row: how far what BatchNorm layers get of drawn scenes is
from what they remember (``shared/misfit.py``; no image is needed), and, with --eval-data, the
accuracy on real images, a folder per class, which that is to foretell.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from summary import markdown

from shared.errors import DreamforgeError
from shared.evaldata import open_eval_data
from shared.misfit import misfit
from shared.teacher import Teacher, load_teacher


def main(words: Sequence[str] | None = None) -> int:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teachers", type=Path, nargs="+")
    parser.add_argument("--arch", required=True, help="names, separated by commas")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--eval-data", help="as for recover run")
    arguments = parser.parse_args(words)
    head = ["checkpoint", "built as", "image size", "distance"]
    rows = []
    try:
        for path in arguments.teachers:
            for name in arguments.arch.split(","):
                teacher = load_teacher(path, architecture=name, image_size=arguments.image_size)
                _, height, width = teacher.spec.image_shape
                distance = misfit(teacher.network, teacher.spec.image_shape)
                row = [path.name, name, f"{height}x{width}", f"{distance:.3f}"]
                rows.append([*row, *_accuracy(teacher, arguments.eval_data)])
    except DreamforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown([*head, *(["accuracy in %"] if arguments.eval_data else [])], rows))
    return 0


def _accuracy(teacher: Teacher, source: str | None) -> list[str]:
    if source is None:
        return []
    data = open_eval_data(source, teacher.spec)
    right = teacher.logits(data.images).argmax(1) == data.labels
    return [f"{100 * float(right.double().mean()):.1f}"]


if __name__ == "__main__":
    raise SystemExit(main())
