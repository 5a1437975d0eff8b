r"""The table of the seed paper, and past it: accuracy by network, recipe and sparsity, repeatable.

    python benchmarks/seed_table.py --arch cifar_resnet18,cifar_vgg19_bn --data cifar10 \
        --sparsity 0.5,0.75,0.8,0.9,0.95 --seeds 0,1,2 --out runs/table
    python benchmarks/seed_table.py (the same) --render

DATA holds train/ and test/, each with a folder per class. A teacher is trained on train/ by
``train_teacher.py``, unless --teacher has one, pruned, and recovered by the recipes:

    seed        that of arXiv:2511.20702 as published: the presets of both tools, 1,024 dreams,
                480 updates of 32 at 1e-3, BatchNorm statistics left as they are
    ours        our defaults: --n dreams, --steps updates
    ours-equal  our defaults at the work of ``seed``: as many dreams as ours come in the seconds of
                its set, at the rates that both were made at (so not with --jobs), and as many
                updates of as many dreams; --equal-options say otherwise
    real        as ``ours``, on --n images of train/ (``dreamforge import``): the bound

Accuracy is that of the last step on test/; nothing is chosen on it. What is finished is never run
again: the same command goes on after an interruption, and networks, recipes, levels and seeds can
be added; other options at the same --out are refused. --render shows what is there.

--only-seconds S begins nothing more after S seconds, so that a call on a machine that is lent for
minutes is a slice of its own: it ends with the table of what is finished, network by network, and
the next call goes on. A command that runs by then goes on to its end. Where the machine is gone
before that, let ``timeout -s TERM`` end it: teachers and students are saved and go on later, of a
set its finished shards stay, and the table is shown all the same.
"""

import argparse
import dataclasses
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from grid import Grid
from grid_options import add_grid_options, add_published_options
from plots import plot_panels
from runner import Runner, command_line, ending_well, say
from seed_page import find, panels, render
from seed_plan import (
    EQUAL,
    OURS,
    RECIPES,
    SEED,
    Network,
    Plan,
    claim,
    equal_number,
    plan_of,
    train_command,
)

from shared.errors import ConfigError
from shared.files import write_text
from shared.shards import read_index

# The networks of the seed paper's repository, for 32 px.
NETWORKS = (
    *("cifar_resnet18", "cifar_resnet34", "cifar_resnet50", "cifar_wide_resnet50_2"),
    *("cifar_mobilenet_v2", "cifar_vgg19_bn", "cifar_densenet121", "cifar_shufflenet_v2_x1_0"),
)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default=",".join(NETWORKS), help="[default: %(default)s]")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument(
        "--teacher", action="append", default=[], metavar="ARCH=FILE", help="take it, train none"
    )
    parser.add_argument("--epochs", type=int, default=60, help="of training a teacher")
    parser.add_argument(
        "--train-options", default="", help="of train_teacher.py, such as --train-options=--no-flip"
    )
    parser.add_argument("--recipes", default=",".join(RECIPES), help="[default: %(default)s]")
    parser.add_argument(
        "--equal-options", default="", help=f"of recover run, last, for {EQUAL}: '--steps 1500'"
    )
    add_grid_options(parser, sparsity="0.5,0.75,0.8,0.9,0.95", num_images=4096)
    add_published_options(parser)
    parser.add_argument(
        "--only-seconds", type=float, metavar="S", help="begin nothing more after S seconds"
    )
    return parser.parse_args(words)


def tasks(plan: Plan, runner: Runner) -> dict[str, Callable[[], None]]:
    """Return the runs that are left to do, by name; each makes what it needs and is not there.

    Seed by seed and network by network: the first rows of the table are there early.
    """
    locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def prepare(network: Network, grid: Grid, recipe: str, seed: int) -> Sequence[str]:
        with locks[network.teacher]:
            if not network.is_given and not network.teacher.exists():
                runner.run(f"{network.name}/teacher", train_command(plan, network))
        if recipe != EQUAL:
            return ()
        again = partial(prepare, network, grid)
        paths = [grid.make_set(runner, other, seed, again) for other in (SEED, OURS)]
        published, ours = (read_index(path).manifest for path in paths)
        return ("--n", str(equal_number(published, ours)))

    found: dict[str, Callable[[], None]] = {}
    for seed in plan.seeds:
        for network in plan.networks:
            grid = dataclasses.replace(network.grid, seeds=(seed,))
            left = grid.tasks(runner, prepare=partial(prepare, network, grid))
            found |= {f"{network.name}, {name}": task for name, task in left.items()}
    return found


def show(plan: Plan) -> bool:
    """Print the table, and write it and its plot beside the runs; False if there is nothing yet."""
    found = find(plan)
    if found:
        text = render(plan, found)
        write_text(plan.out / "table.md", text)
        plot_panels(panels(found), plan.out / "accuracy.png")
        print(text, flush=True)
    return bool(found)


def main() -> int:
    """Run what is missing, then print and write what is there; 1 if something failed."""
    plan = plan_of(parse_arguments())
    failures: list[str] = []
    runner = Runner(plan.options.jobs, plan.out / "logs", plan.options.only_seconds)
    if not plan.options.render:
        claim(plan)
        try:
            failures = runner.run_all(tasks(plan, runner))
        except KeyboardInterrupt:  # the machine may be gone soon
            show(plan)
            raise
    is_shown = show(plan)
    for failure in failures:
        say(f"failed: {failure}")
    if runner.num_late:
        say(f"{runner.num_late} runs are left; the same command goes on: {command_line()}")
    elif not is_shown and not failures:
        raise ConfigError(f"{plan.out}: no finished run in it yet; run without --render")
    return 1 if failures else 0


if __name__ == "__main__":
    ending_well(main)
