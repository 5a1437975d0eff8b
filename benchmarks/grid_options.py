"""Options that the benchmarks of recovery share: one line each, one meaning everywhere."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared.errors import ConfigError


def add_grid_options(
    parser: argparse.ArgumentParser, *, sparsity: str, num_images: int, seeds: str = "0,1,2"
) -> None:
    """Add what every grid of recoveries has: folder, levels, seeds, budget, jobs.

    Args:
        parser: Gets the options.
        sparsity: Default levels.
        num_images: Default size of a transfer set.
        seeds: Default seeds.
    """
    parser.add_argument("--out", type=Path, required=True, help="folder for sets and runs")
    parser.add_argument("--sparsity", default=sparsity, help="[default: %(default)s]")
    parser.add_argument("--seeds", default=seeds, help="one set of each kind per seed")
    parser.add_argument("--n", type=int, default=num_images, help="images of each set")
    parser.add_argument("--steps", type=int, default=1500, help="updates of each recovery")
    parser.add_argument("--teacher-options", default="", help="such as '--image-size 32'")
    parser.add_argument("--recover-options", default="", help="of recover run on every set")
    parser.add_argument(
        "--jobs", type=int, default=1, help="at a time, sharing the cores: disturbs the seconds"
    )
    parser.add_argument("--render", action="store_true", help="show what is there, run nothing")


def add_judged_teacher(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark of one teacher."""
    parser.add_argument("--teacher", required=True, help="checkpoint")
    parser.add_argument("--eval-data", required=True, help="as for recover run")


def add_published_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark that compares our dreams with the published recipe's."""
    parser.add_argument("--seed-n", type=int, default=1024, help="of 'seed'; published: 1024")
    parser.add_argument("--synth-steps", type=int, default=100, help="of our dreams")
    parser.add_argument("--synth-options", default="", help="of our dreams, such as '--no-flip'")


def parse_names(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of ``a,b``.

    Raises:
        ConfigError: If one of them is not known, or is there twice.
    """
    names = tuple(text.split(","))
    if not {*names} <= {*known} or len({*names}) != len(names):
        raise ConfigError(f"{flag}: found {text!r}, expected some of {', '.join(known)}")
    return names


def parse_files(texts: Sequence[str], architectures: Sequence[str]) -> dict[str, Path]:
    """Return the checkpoints of ``--teacher ARCH=FILE``, by architecture.

    Raises:
        ConfigError: If one is anything else, or of an architecture that was not asked for.
    """
    files = dict(text.partition("=")[::2] for text in texts)
    if not all(files.values()) or not files.keys() <= {*architectures} or len(files) < len(texts):
        raise ConfigError(
            f"--teacher: found {', '.join(texts)}, expected ARCH=FILE, each ARCH once and one of "
            f"{', '.join(architectures)}"
        )
    return {name: Path(path) for name, path in files.items()}
