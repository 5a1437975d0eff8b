"""Data-free transfer into another architecture, beside the published figures of the same pairs.

    python benchmarks/transfer_table.py --data cifar10 --out runs/transfer
    python benchmarks/transfer_table.py --data cifar10 --out runs/small --pairs resnet56/resnet20 \
        --teacher resnet56=resnet56.th --teacher-options '--image-size 32' \
        --n 1024 --synth-steps 100 --steps 1500
    python benchmarks/transfer_table.py (the same) --render

DATA holds train/ and test/, each with a folder per class. For every pair: a teacher is trained on
train/, unless --teacher has one; dreams are made from it; ``recover run --student`` teaches the
student on them, from random weights, and with equal steps on as many real images of train/, the
bound. Accuracy is that of the last step on test/; nothing is chosen on it.

What is finished is never run again: the same command goes on after an interruption, and pairs and
seeds can be added. --render shows what is there.
"""

import argparse
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from grid import parse_seeds
from grid_options import parse_files, parse_names
from published_transfer import METHODS, PUBLISHED, SOURCES
from runner import Runner, command_line, ending_well, say
from summary import counted, markdown, percent
from transfer_plan import Cell, Plan, claim, recover_command, set_command, teacher_command

from recover.report import RecoveryReport
from recover.results import read_report
from shared.errors import ConfigError
from shared.files import write_text

SETS = ("dreams", "real")
PAIRS = (
    "resnet56/resnet20,wrn_40_2/wrn_16_1,"
    "cifar_vgg11_bn/cifar_resnet18,cifar_resnet34/cifar_resnet18"
)
Reports = dict[Cell, RecoveryReport]


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument(
        "--pairs", default=PAIRS, help="teacher/student,...  [default: %(default)s]"
    )
    parser.add_argument("--sets", default=",".join(SETS), help="dreams, and real for the bound")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2; teachers have one seed")
    parser.add_argument(
        "--teacher", action="append", default=[], metavar="ARCH=FILE", help="take it, train none"
    )
    parser.add_argument("--epochs", type=int, default=60, help="of training a teacher")
    parser.add_argument("--n", type=int, default=10_000, help="images of each set")
    parser.add_argument("--synth-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=10_000, help="updates of a student")
    parser.add_argument("--teacher-options", default="", help="such as '--image-size 32'")
    for name, tool in (
        ("train", "train_teacher.py"),
        ("synth", "dreamforge synth"),
        ("recover", "recover run"),
    ):
        flag = f"--{name}-options"
        parser.add_argument(flag, default="", help=f"of {tool}, such as {flag}=--no-flip")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; cores are shared out")
    parser.add_argument("--render", action="store_true", help="show what is there, run nothing")
    return parser.parse_args(words)


def plan_of(options: argparse.Namespace) -> Plan:
    """Return what the command line asks for.

    Raises:
        ConfigError: If that makes no sense.
    """
    pairs = [tuple(pair.split("/")) for pair in options.pairs.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs) or len({*pairs}) != len(pairs):
        raise ConfigError(f"--pairs: found {options.pairs!r}, expected resnet56/resnet20,...")
    return Plan(
        out=options.out,
        data=options.data,
        pairs=tuple((teacher, student) for teacher, student in pairs),
        sources=parse_names("--sets", options.sets, SETS),
        seeds=parse_seeds(options.seeds),
        files=parse_files(options.teacher, [pair[0] for pair in pairs]),
        options=options,
    )


def tasks(plan: Plan, runner: Runner) -> dict[str, Callable[[], None]]:
    """Return the runs that are left to do, by name; each makes what it needs and is not there."""
    locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def make(path: Path, command: list[str]) -> None:
        with locks[path]:  # the first that needs it makes it, the others wait
            if not path.exists():
                runner.run(path.stem, command)

    def teach(cell: Cell) -> None:
        make(plan.teacher_path(cell.teacher), teacher_command(plan, cell.teacher))
        make(plan.set_path(cell), set_command(plan, cell))
        runner.run(plan.run_path(cell).name, recover_command(plan, cell))

    return {
        f"{cell.teacher} to {cell.student} on {cell.source}, seed {cell.seed}": partial(teach, cell)
        for cell in plan.cells()
        if not plan.is_finished(cell)
    }


def render(plan: Plan, reports: Reports) -> str:
    """Return everything that is printed, as Markdown.

    Args:
        plan: What was asked for.
        reports: What is finished of it, at least one.
    """
    rows = [row(plan, reports, *pair) for pair in plan.pairs]
    head = ["teacher -> student", "teacher", *(f"student on {name}" for name in plan.sources)]
    head += ["published: teacher", "student on real images", *METHODS]
    origin = next(iter(reports.values())).provenance
    versions = ", ".join(f"{k} {v}" for k, v in (origin.get("versions") or {}).items())
    seconds = mean(report.seconds for report in reports.values())
    options = plan.options
    return "\n".join(
        [
            f"Students from random weights, taught by the teacher alone: {options.n} images a set, "
            f"dreams of {options.synth_steps} steps, {options.steps} updates. Accuracy of the last "
            f"step in % on {origin.get('num_eval_images')} real images, mean ± standard deviation "
            f"over seeds {', '.join(map(str, plan.seeds))}; {len(reports)} of "
            f"{len(plan.cells())} runs are finished, {seconds:.0f} s each. `-`: not measured here, "
            "or not published.\n",
            markdown(head, rows),
            "Published: on the original CIFAR-10, with other teachers and other budgets.\n",
            *(f"- {source}" for source in SOURCES),
            f"- {origin.get('device')}; {versions}",
            f"- `{command_line()}`",
            "",
        ]
    )


def row(plan: Plan, reports: Reports, teacher: str, student: str) -> list[str]:
    """Return the cells of one pair."""
    own = {c: r for c, r in reports.items() if (c.teacher, c.student) == (teacher, student)}
    known = [report.teacher.accuracy for report in own.values()][:1]
    cells = [f"{teacher} -> {student}", percent([a for a in known if a is not None])]
    for source in plan.sources:
        found = [r.recovered.accuracy for c, r in own.items() if c.source == source]
        accuracies = [accuracy for accuracy in found if accuracy is not None]
        cells.append(counted(percent(accuracies), len(accuracies), len(plan.seeds)))
    published = PUBLISHED.get((teacher, student))
    if published is None:
        return [*cells, *["-"] * (2 + len(METHODS))]
    figures = (published.teacher, published.on_real, *published.on_dreams)
    return [*cells, *(f"{figure:.2f}" for figure in figures)]


def main() -> int:
    """Run what is missing, then print and write what is there; 1 if something failed."""
    plan = plan_of(parse_arguments())
    failures: list[str] = []
    if not plan.options.render:
        claim(plan)
        runner = Runner(plan.options.jobs, plan.out / "logs")
        failures = runner.run_all(tasks(plan, runner))
    reports = {
        cell: read_report(plan.run_path(cell)) for cell in plan.cells() if plan.is_finished(cell)
    }
    for failure in failures:
        say(f"failed: {failure}")
    if not reports:
        raise ConfigError(f"{plan.out}: no finished run in it yet")
    text = render(plan, reports)
    write_text(plan.out / "table.md", text)
    print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    ending_well(main)
