import sys
from pathlib import Path

import pytest
from test_bench_recovery import report

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import published_transfer
import transfer_plan
import transfer_table

from shared.architectures import find_candidate
from shared.errors import ConfigError, IncompatibleError

WORDS = ["--data", "cifar", "--out", "out", "--pairs", "wrn_40_2/wrn_16_1,resnet56/resnet20"]


def plan_of(*words):
    return transfer_table.plan_of(transfer_table.parse_arguments([*WORDS, *words]))


def cell(source="dreams", seed=0, teacher="wrn_40_2", student="wrn_16_1"):
    return transfer_plan.Cell(teacher=teacher, student=student, source=source, seed=seed)


class Recorder:
    """Runs nothing; makes the files that the commands would have made."""

    def __init__(self):
        self.commands = []

    def run(self, name, command):
        self.commands.append(command)
        out = Path(command[command.index("--out") + 1])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()


def test_published_pairs_are_architectures_of_ours():
    for pair, figures in published_transfer.PUBLISHED.items():
        for name in pair:
            assert find_candidate(name).name == name
        assert len(figures.on_dreams) == len(published_transfer.METHODS)
        assert all(50 < figure <= figures.teacher for figure in figures.on_dreams)


def test_every_pair_of_the_default_is_known():
    arguments = transfer_table.parse_arguments(["--data", "cifar", "--out", "out"])

    plan = transfer_table.plan_of(arguments)

    for name in {name for pair in plan.pairs for name in pair}:
        assert find_candidate(name).name == name
    assert set(published_transfer.PUBLISHED) & set(plan.pairs) == {
        ("wrn_40_2", "wrn_16_1"),
        ("cifar_vgg11_bn", "cifar_resnet18"),
        ("cifar_resnet34", "cifar_resnet18"),
    }


def test_each_set_and_teacher_is_made_once(tmp_path):
    plan = plan_of("--out", str(tmp_path), "--pairs", "a/b,a/c", "--teacher-options", "--mean 0.5")
    runner = Recorder()

    for task in transfer_table.tasks(plan, runner).values():
        task()

    tools = [command[0] for command in runner.commands]
    assert tools.count("train_teacher") == 1
    assert tools.count("dreamforge") == tools.count("transfer_sets") == 1
    assert tools.count("recover") == 4
    for command in runner.commands:
        assert ("--mean" in command) == (command[0] != "train_teacher")


def test_a_teacher_that_is_there_is_not_trained(tmp_path):
    mine = tmp_path / "mine.pt"
    mine.touch()
    plan = plan_of("--out", str(tmp_path), "--pairs", "a/b", "--teacher", f"a={mine}")
    runner = Recorder()

    for task in transfer_table.tasks(plan, runner).values():
        task()

    assert {command[0] for command in runner.commands} == {"dreamforge", "transfer_sets", "recover"}
    assert all(str(mine) in command for command in runner.commands)


def test_students_on_dreams_and_on_real_images_differ_in_their_set_alone():
    plan = plan_of("--steps", "7", "--recover-options", "--lr 0.2")

    commands = [transfer_plan.recover_command(plan, cell(source)) for source in ("dreams", "real")]

    pairs = list(zip(*commands, strict=True))
    differing = {(a, b) for a, b in pairs if a != b}
    assert all(a.replace("-dreams-", "-real-") == b for a, b in differing)
    assert len(differing) == 2  # the set, and the folder
    assert "--sparsity" not in commands[0]


def test_the_table_has_what_is_measured_beside_what_is_published():
    plan = plan_of("--seeds", "0,1")
    reports = {
        cell(seed=0): report(0.80, 0.9),
        cell(seed=1): report(0.84, 0.9),
        cell("real", seed=0): report(0.9, 0.9),
    }

    text = transfer_table.render(plan, reports)

    (row,) = [line for line in text.splitlines() if line.startswith("| wrn_40_2 -> wrn_16_1")]
    assert [part.strip() for part in row.strip("|").split("|")] == [
        "wrn_40_2 -> wrn_16_1",
        "90.0",
        "82.0 ± 2.8",
        "90.0 (1 seed)",
        *("94.87", "91.12", "83.04", "90.01", "89.29", "90.05"),
    ]
    (empty,) = [line for line in text.splitlines() if line.startswith("| resnet56 -> resnet20")]
    assert empty.count("| - ") == 9
    assert "original CIFAR-10" in text
    assert "3 of 8 runs are finished" in text


def test_a_folder_has_one_budget(tmp_path):
    first = plan_of("--out", str(tmp_path / "o"))
    transfer_plan.claim(first)
    transfer_plan.claim(plan_of("--out", str(tmp_path / "o"), "--seeds", "0,1"))

    with pytest.raises(IncompatibleError, match=r"begun with --n 10000, now 5"):
        transfer_plan.claim(plan_of("--out", str(tmp_path / "o"), "--n", "5"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--pairs", "resnet56"], "--pairs: found 'resnet56'"),
        (["--pairs", "a/b,a/b"], "--pairs: found"),
        (["--teacher", "resnet20=x.pt"], "expected ARCH=FILE"),
        (["--teacher", "resnet56"], "expected ARCH=FILE"),
        (["--sets", "noise"], "--sets: found 'noise'"),
        (["--seeds", "a"], "--seeds: found 'a'"),
    ],
)
def test_nonsense_is_refused_in_one_line(words, text):
    with pytest.raises(ConfigError, match=text):
        plan_of(*words)
