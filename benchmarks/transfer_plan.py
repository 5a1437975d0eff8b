"""What a benchmark of data-free transfer is made of: pairs, files, and the commands for them.

See ``transfer_table.py``. A folder holds the figures of one budget, whatever pairs and seeds.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from budget import claim_budget
from recipes import dream_words, real_words

from recover.folder import RunFolder

# What decides the figures: one folder holds those of one choice.
BUDGET = (
    *("n", "synth_steps", "steps", "epochs"),
    *("teacher_options", "train_options", "synth_options", "recover_options"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of recovery."""

    teacher: str
    student: str
    source: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asks for.

    Attributes:
        out: The folder of everything.
        data: With train/ and test/.
        pairs: Teacher and student, by architecture.
        sources: Which transfer sets.
        seeds: Of sets and students.
        files: Checkpoints of teachers that are there already, by architecture.
        options: The parsed command line.
    """

    out: Path
    data: Path
    pairs: tuple[tuple[str, str], ...]
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    files: dict[str, Path]
    options: argparse.Namespace

    def cells(self) -> list[Cell]:
        """Return all runs, pair by pair: the first row of the table is there early."""
        return [
            Cell(teacher=teacher, student=student, source=source, seed=seed)
            for seed in self.seeds
            for teacher, student in self.pairs
            for source in self.sources
        ]

    def teacher_path(self, teacher: str) -> Path:
        """Return the checkpoint of a teacher, given or to be trained."""
        return self.files.get(teacher, self.out / "teachers" / f"{teacher}.safetensors")

    def set_path(self, cell: Cell) -> Path:
        """Return the index of a transfer set; students of one teacher share it."""
        return self.out / f"{cell.teacher}-{cell.source}-{cell.seed}.h5"

    def run_path(self, cell: Cell) -> Path:
        """Return the folder of a run."""
        return self.out / f"{cell.teacher}-to-{cell.student}-{cell.source}-{cell.seed}"

    def is_finished(self, cell: Cell) -> bool:
        """Return whether a run has its report."""
        return RunFolder(self.run_path(cell), {}).is_finished


def claim(plan: Plan) -> None:
    """Record the budget of the folder.

    Raises:
        IncompatibleError: If it was begun with another one.
    """
    claim_budget(plan.out, {name: getattr(plan.options, name) for name in BUDGET})


def teacher_command(plan: Plan, teacher: str) -> list[str]:
    """Return the command that trains a teacher."""
    return [
        *("train_teacher", "--data", str(plan.data), "--arch", teacher),
        *("--epochs", str(plan.options.epochs), *shlex.split(plan.options.train_options)),
        *("--out", str(plan.teacher_path(teacher))),
    ]


def set_command(plan: Plan, cell: Cell) -> list[str]:
    """Return the command that makes a transfer set."""
    make = real_words(str(plan.data / "train"))
    if cell.source == "dreams":
        make = dream_words(plan.options.synth_steps, plan.options.synth_options)
    return [
        *(*make, *_teacher_words(plan, cell), "--n", str(plan.options.n)),
        *("--seed", str(cell.seed), "--out", str(plan.set_path(cell))),
    ]


def recover_command(plan: Plan, cell: Cell) -> list[str]:
    """Return the command that teaches a student."""
    return [
        *("recover", "run", *_teacher_words(plan, cell), "--student", cell.student),
        *("--dreams", str(plan.set_path(cell)), "--eval-data", str(plan.data / "test")),
        *("--steps", str(plan.options.steps), "--seed", str(cell.seed)),
        *(*shlex.split(plan.options.recover_options), "--out", str(plan.run_path(cell))),
    ]


def _teacher_words(plan: Plan, cell: Cell) -> list[str]:
    path = str(plan.teacher_path(cell.teacher))
    return ["--teacher", path, *shlex.split(plan.options.teacher_options)]
