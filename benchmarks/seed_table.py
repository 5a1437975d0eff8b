"""Accuracy against sparsity, our defaults beside the seed paper's recipe, through the same tools.

    python benchmarks/seed_table.py --teacher resnet20.pt --eval-data cifar10/test --out runs/r20

Runs ``dreamforge synth`` and ``recover run`` for every seed, recipe and sparsity, and prints a
Markdown table with mean and spread over the seeds. What is finished is not run again, so the same
command goes on after an interruption, and more seeds or levels can be added later. Accuracy is
that of the last step on the real images; nothing is chosen on them.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summary import percent, spread

PRESET = {"ours": "default", "seed": "tripurwar2025"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of ``recover``."""

    recipe: str
    sparsity: float
    seed: int


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="checkpoint")
    parser.add_argument("--eval-data", required=True, help="as for recover run")
    parser.add_argument("--out", type=Path, required=True, help="folder for dreams and runs")
    parser.add_argument("--n", type=int, default=1024, help="dreams of each recipe")
    parser.add_argument("--synth-steps", type=int, default=200)
    parser.add_argument("--recover-steps", type=int, help="of our recipe  [default: recover's]")
    parser.add_argument("--sparsity", default="0.5,0.75,0.8,0.9")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--recipes", default="ours,seed")
    parser.add_argument("--teacher-options", default="", help="such as '--image-size 32'")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; cores are shared out")
    return parser.parse_args()


def main() -> None:
    """Make what is missing, then print the table."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipes = arguments.recipes.split(",")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    levels = [float(level) for level in arguments.sparsity.split(",")]
    sets = [(recipe, seed) for recipe in recipes for seed in seeds]
    cells = [
        Cell(recipe=recipe, sparsity=level, seed=seed) for level in levels for recipe, seed in sets
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        dreams = dict(zip(sets, pool.map(lambda s: synthesize(arguments, *s), sets), strict=True))
        reports = dict(zip(cells, pool.map(lambda c: recover(arguments, c), cells), strict=True))
    table = render(arguments, dreams, reports, levels, recipes, seeds)
    (arguments.out / "table.md").write_text(table)
    print(table)


def synthesize(arguments: argparse.Namespace, recipe: str, seed: int) -> dict[str, Any]:
    """Make a dream set, or take the one that is there; return what ``synth --json`` said."""
    result = arguments.out / f"dreams-{recipe}-{seed}.json"
    if not result.exists():
        command = [
            *("dreamforge", "synth", "--teacher", arguments.teacher),
            *("--preset", PRESET[recipe], "--n", str(arguments.n), "--seed", str(seed)),
            *("--steps", str(arguments.synth_steps), *shlex.split(arguments.teacher_options)),
            *("--out", str(result.with_suffix(".h5")), "--json"),
        ]
        result.write_text(json.dumps(run(command, arguments.jobs)))
    return json.loads(result.read_text())


def recover(arguments: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    """Recover one student, or take the report that is there."""
    out = arguments.out / f"{cell.recipe}-{cell.sparsity:g}-{cell.seed}"
    if not (out / "report.json").exists():
        command = [
            *("recover", "run", "--teacher", arguments.teacher),
            *("--dreams", str(arguments.out / f"dreams-{cell.recipe}-{cell.seed}.h5")),
            *("--preset", PRESET[cell.recipe], "--sparsity", str(cell.sparsity)),
            *("--seed", str(cell.seed), "--eval-data", arguments.eval_data),
            *("--out", str(out), "--json"),
        ]
        if arguments.recover_steps and cell.recipe == "ours":
            command += ["--steps", str(arguments.recover_steps)]
        run(command, arguments.jobs)
    return json.loads((out / "report.json").read_text())


def run(command: list[str], jobs: int) -> Any:
    """Run one of our tools and return the JSON on its stdout."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)  # taskset leaves fewer cores
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    print(shlex.join(command), file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def render(
    arguments: argparse.Namespace,
    dreams: dict[tuple[str, int], dict[str, Any]],
    reports: dict[Cell, dict[str, Any]],
    levels: list[float],
    recipes: list[str],
    seeds: list[int],
) -> str:
    """Return the Markdown table, and the lines that say where it comes from."""
    first = next(iter(reports.values()))
    origin = first["provenance"]
    spec = origin["teacher"]
    head = ["sparsity", "weights kept", *(f"{r}: {s}" for r in recipes for s in STAGES)]
    lines = [
        f"{spec['architecture']}, {origin['num_eval_images']} real images, teacher "
        f"{percent([first['teacher']['accuracy']])} %; {arguments.n} dreams of "
        f"{arguments.synth_steps} steps; accuracy in %, seeds {', '.join(map(str, seeds))}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for level in levels:
        row = [f"{level:g}"]
        for recipe in recipes:
            cells = [reports[Cell(recipe=recipe, sparsity=level, seed=seed)] for seed in seeds]
            if len(row) == 1:
                row.append(f"{cells[0]['num_kept']:,}")
            row += [percent([cell[stage]["accuracy"] for cell in cells]) for stage in STAGES]
        lines.append("| " + " | ".join(row) + " |")
    lines.append("")
    for recipe in recipes:
        made = [dreams[recipe, seed] for seed in seeds]
        taken = [r["seconds"] for cell, r in reports.items() if cell.recipe == recipe]
        lines.append(
            f"- {recipe}: synthesis {spread([m['seconds'] for m in made])} s, "
            f"{percent([m['teacher_accuracy_on_dreams'] for m in made])} % recognised by the "
            f"teacher; recovery {spread(taken)} s a run"
        )
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    lines += [
        f"- {origin['device']}, {arguments.jobs} runs at a time; {versions}",
        f"- `python {shlex.join(sys.argv)}`",
        "",
    ]
    return "\n".join(lines)


STAGES = ("pruned", "repaired", "recovered")


if __name__ == "__main__":
    main()
