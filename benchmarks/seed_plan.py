"""What the table of the seed paper is made of: networks, recipes, files, and their commands.

See ``seed_table.py``. A folder holds the figures of one budget, whatever networks, recipes, levels
and seeds; in it is a folder per architecture, a :class:`grid.Grid`.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from budget import claim_budget
from grid import Grid, Source, parse_seeds
from grid_options import parse_files, parse_names
from recipes import PUBLISHED, dream_words, published_words, real_words

from recover.levels import parse_sparsities
from recover.presets import PRESETS
from shared.architectures import find_candidate
from shared.errors import ConfigError, InputFileError
from shared.manifest import Manifest

SEED, OURS, EQUAL, REAL = RECIPES = ("seed", "ours", "ours-equal", "real")
# What decides the figures: one folder holds those of one choice.
BUDGET = (
    *("data", "n", "seed_n", "synth_steps", "steps", "epochs"),
    *("teacher_options", "train_options", "synth_options", "recover_options", "equal_options"),
)
# The work of the published recovery, for ours at equal work.
PUBLISHED_WORK = (
    *("--steps", str(PRESETS[PUBLISHED]["steps"])),
    *("--batch-size", str(PRESETS[PUBLISHED]["batch_size"])),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One architecture.

    Attributes:
        name: In the catalog.
        teacher: Its checkpoint, given or to be trained.
        is_given: Which of the two.
        grid: Sets and runs.
    """

    name: str
    teacher: Path
    is_given: bool
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asks for.

    Attributes:
        out: The folder of everything.
        networks: In the order of the table.
        levels: Sparsities, ascending.
        seeds: Of sets and recoveries.
        options: The parsed command line.
    """

    out: Path
    networks: tuple[Network, ...]
    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    options: argparse.Namespace


def plan_of(options: argparse.Namespace) -> Plan:
    """Return what the command line asks for.

    Raises:
        ConfigError: If that makes no sense.
    """
    names = options.arch.split(",")
    if len({*names}) != len(names):
        raise ConfigError(f"--arch: found {options.arch!r}, expected different architectures")
    for name in names:
        find_candidate(name)
    if str(options.data).startswith("cifar10:"):
        raise ConfigError(
            f"--data {options.data}: expected a folder with train/ and test/, each with a folder "
            "of images per class"
        )
    recipes = parse_names("--recipes", options.recipes, RECIPES)
    if EQUAL in recipes and not {SEED, OURS} <= {*recipes}:
        raise ConfigError(f"--recipes: {EQUAL} takes its time from {SEED} and {OURS}; add them")
    files = parse_files(options.teacher, names)
    levels, seeds = parse_sparsities(options.sparsity), parse_seeds(options.seeds)

    def network(name: str) -> Network:
        trained = options.out / "teachers" / f"{name}.safetensors"
        teacher = files.get(name, trained)
        words = ("--teacher", str(teacher), *shlex.split(options.teacher_options))
        grid = Grid(
            out=options.out / name,
            sources=tuple(source_of(recipe, words, options) for recipe in recipes),
            levels=levels,
            seeds=seeds,
            common=(*words, "--eval-data", str(options.data / "test")),
            prefix=f"{name}/",
        )
        return Network(name=name, teacher=teacher, is_given=name in files, grid=grid)

    return Plan(
        out=options.out,
        networks=tuple(map(network, names)),
        levels=levels,
        seeds=seeds,
        options=options,
    )


def source_of(recipe: str, teacher: tuple[str, ...], options: argparse.Namespace) -> Source:
    """Return how the set of a recipe is made, and what recovery is told on it.

    The number of dreams of ``EQUAL`` is missing: it is known when others have been timed.
    """
    own = tuple(shlex.split(options.recover_options))
    number = ("--n", str(options.n))
    ours = dream_words(options.synth_steps, options.synth_options)
    updates = ("--steps", str(options.steps))
    if recipe == SEED:
        make = (*published_words(), *teacher, "--n", str(options.seed_n))
        return Source(name=recipe, make=make, recover=("--preset", PUBLISHED))
    if recipe == EQUAL:
        work = (*PUBLISHED_WORK, *shlex.split(options.equal_options))
        return Source(name=recipe, make=(*ours, *teacher), recover=(*own, *work))
    make = ours if recipe == OURS else real_words(str(options.data / "train"))
    return Source(name=recipe, make=(*make, *teacher, *number), recover=(*updates, *own))


def claim(plan: Plan) -> None:
    """Record the budget of the folder, and where each teacher comes from.

    Raises:
        IncompatibleError: If it was begun with another budget, or another teacher.
    """
    chosen = {name: getattr(plan.options, name) for name in BUDGET}
    claim_budget(plan.out, chosen | {"data": str(plan.options.data)})
    for network in plan.networks:
        teacher = str(network.teacher) if network.is_given else "none, trained here"
        claim_budget(network.grid.out, {"teacher": teacher})


def train_command(plan: Plan, network: Network) -> list[str]:
    """Return the command that trains the teacher of a network."""
    return [
        *("train_teacher", "--data", str(plan.options.data), "--arch", network.name),
        *("--epochs", str(plan.options.epochs), *shlex.split(plan.options.train_options)),
        *("--out", str(network.teacher)),
    ]


def equal_number(published: Manifest, ours: Manifest) -> int:
    """Return how many dreams of ours take at most the seconds of the published recipe's set.

    At the rate that the set of ours was made at, its start included; at least one per class.

    Raises:
        InputFileError: If one of the sets does not know its seconds.
    """
    limit, spent = synthesis_seconds(published), synthesis_seconds(ours)
    if limit is None or spent is None:
        raise InputFileError(
            f"the set of {SEED} took {limit} seconds and that of {OURS} {spent}, expected numbers; "
            "make both without SOURCE_DATE_EPOCH"
        )
    return max(ours.teacher.num_classes, int(limit * ours.num_images / spent))


def synthesis_seconds(manifest: Manifest) -> float | None:
    """Return how long all processes took to make a set; None where nothing was synthesized."""
    value = manifest.provenance.get("seconds")
    return float(value) if isinstance(value, int | float) and value > 0 else None
