import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import blobs
from PIL import Image
from test_bench_recovery import report

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import runner as processes
import seed_page
import seed_plan
import seed_table
import train_teacher
import transfer_sets
from grid import Cell
from plots import Curve, Panel, plot_panels

import dreamforge.cli
import recover.cli
from shared.architectures import find_candidate
from shared.errors import ConfigError, DreamforgeError, IncompatibleError, InputFileError
from shared.manifest import Manifest, ShardInfo
from shared.spec import TeacherSpec

WORDS = ["--data", "cifar", "--out", "out", "--arch", "resnet8,resnet20", "--seeds", "0,1"]
WORDS += ["--sparsity", "0.5,0.9"]


def plan_of(*words):
    return seed_plan.plan_of(seed_table.parse_arguments([*WORDS, *words]))


def manifest(num_images, seconds, accuracy=0.75):
    spec = TeacherSpec(
        architecture="resnet8",
        num_classes=10,
        image_shape=(3, 8, 8),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        fingerprint="0" * 64,
    )
    shard = ShardInfo(name="a.h5", num_images=num_images, num_bytes=1, sha256="0" * 64)
    return Manifest(
        num_images=num_images,
        shards=(shard,),
        teacher=spec,
        provenance={} if seconds is None else {"seconds": seconds},
        quality={"teacher_accuracy": accuracy},
    )


def found_of(plan, runs, sets=None):
    """What is finished of the first network; runs are (recipe, level, seed): accuracy."""
    reports = {
        Cell(source=recipe, sparsity=level, seed=seed): report(accuracy, 0.5)
        for (recipe, level, seed), accuracy in runs.items()
    }
    return seed_page.Found(network=plan.networks[0], reports=reports, sets=sets or {})


def test_the_default_is_every_network_of_the_seed_repository():
    options = seed_table.parse_arguments(["--data", "d", "--out", "o"])

    assert options.arch.split(",") == list(seed_table.NETWORKS)
    assert all(find_candidate(name).name == name for name in seed_table.NETWORKS)
    assert len(seed_table.NETWORKS) == 8


def test_recipes_differ_in_what_they_say_they_do():
    options = ["--n", "9", "--seed-n", "7", "--steps", "5", "--synth-options=--no-flip"]
    (network, _) = plan_of(*options, "--recover-options", "--mix both").networks
    makes = {source.name: " ".join(source.make) for source in network.grid.sources}
    recovers = {source.name: " ".join(source.recover) for source in network.grid.sources}

    teacher = "--teacher out/teachers/resnet8.safetensors"
    assert makes == {
        "seed": f"dreamforge synth --preset tripurwar2025 {teacher} --n 7",
        "ours": f"dreamforge synth --steps 100 --no-flip {teacher} --n 9",
        "ours-equal": f"dreamforge synth --steps 100 --no-flip {teacher}",
        "real": f"transfer_sets choose --real cifar/train {teacher} --n 9",
    }
    assert recovers == {
        "seed": "--preset tripurwar2025",
        "ours": "--steps 5 --mix both",
        "ours-equal": "--mix both --steps 480 --batch-size 32",
        "real": "--steps 5 --mix both",
    }


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--arch", "resnet8,resnet8"], "--arch: found 'resnet8,resnet8'"),
        (["--arch", "resnat8"], "did you mean"),
        (["--recipes", "theirs"], "--recipes: found 'theirs'"),
        (["--recipes", "ours,ours-equal"], "ours-equal takes its time from seed and ours"),
        (["--teacher", "resnet56=x.pt"], "expected ARCH=FILE"),
        (["--teacher", "resnet8"], "expected ARCH=FILE"),
        (["--teacher", "resnet8=a.pt", "--teacher", "resnet8=b.pt"], "each ARCH once"),
        (["--data", "cifar10:root"], "expected a folder with train/ and test/"),
        (["--sparsity", "1"], "--sparsity"),
        (["--seeds", "a"], "--seeds"),
    ],
)
def test_nonsense_is_refused_in_one_line(words, text):
    with pytest.raises(ConfigError, match=text) as caught:
        plan_of(*words)
    assert "\n" not in str(caught.value)


def test_equal_seconds_buy_dreams_at_the_measured_rate():
    # 100 seconds at half a second each.
    assert seed_plan.equal_number(manifest(64, 100.0), manifest(512, 256.0)) == 200
    assert seed_plan.equal_number(manifest(64, 1.0), manifest(64, 64.0)) == 10  # one per class

    with pytest.raises(InputFileError, match="that of ours None, expected numbers"):
        seed_plan.equal_number(manifest(64, 1.0), manifest(64, None))


def test_a_folder_has_one_budget_and_each_network_one_teacher(tmp_path):
    place = ["--out", str(tmp_path / "o"), "--arch", "resnet8"]
    seed_plan.claim(plan_of(*place))
    seed_plan.claim(plan_of(*place, "--arch", "resnet8,resnet20", "--seeds", "0,1,2"))
    seed_plan.claim(plan_of(*place, "--sparsity", "0.98", "--recipes", "seed", "--jobs", "2"))

    with pytest.raises(IncompatibleError, match="begun with --steps 1500, now 5"):
        seed_plan.claim(plan_of(*place, "--steps", "5"))
    with pytest.raises(IncompatibleError, match="begun with --data 'cifar', now 'digits'"):
        seed_plan.claim(plan_of(*place, "--data", "digits"))
    with pytest.raises(IncompatibleError, match=r"begun with --teacher 'none, trained here', now"):
        seed_plan.claim(plan_of(*place, "--teacher", "resnet8=mine.pt"))
    (tmp_path / "o" / "budget.json").write_text("{")
    with pytest.raises(InputFileError, match="not readable"):
        seed_plan.claim(plan_of(*place))


class Recorder:
    """Runs nothing; makes the files that the commands would have made."""

    def __init__(self):
        self.commands = []

    def run(self, name, command):
        self.commands.append((name, list(command)))
        out = Path(command[command.index("--out") + 1])
        if out.suffix in (".h5", ".safetensors"):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.touch()
        else:
            out.mkdir(parents=True)
            (out / "report.json").write_text("{}")


def test_each_teacher_and_set_is_made_once_network_by_network_and_seed_by_seed(
    tmp_path, monkeypatch
):
    plan = plan_of("--out", str(tmp_path))
    monkeypatch.setattr(seed_table, "read_index", lambda path: SimpleNamespace(manifest=path.stem))
    sizes = {("seed-0", "ours-0"): 77, ("seed-1", "ours-1"): 78}
    monkeypatch.setattr(seed_table, "equal_number", lambda *manifests: sizes[manifests])
    recorder = Recorder()

    todo = seed_table.tasks(plan, recorder)
    for task in todo.values():
        task()

    tools = [command[0] for _, command in recorder.commands]
    assert tools.count("train_teacher") == 2
    assert tools.count("dreamforge") == 2 * 2 * 3
    assert tools.count("transfer_sets") == 2 * 2
    assert tools.count("recover") == len(todo) == 2 * 2 * 2 * 4
    equal = [command for name, command in recorder.commands if name.endswith("/ours-equal-0")]
    assert [command[command.index("--n") + 1] for command in equal] == ["77", "77"]
    order = list(dict.fromkeys(tuple(name.split(", ")[:3:2]) for name in todo))
    assert order == [(n, f"seed {s}") for s in (0, 1) for n in ("resnet8", "resnet20")]
    assert len({name for name, _ in recorder.commands}) == len(recorder.commands)
    assert seed_table.tasks(plan, recorder) == {}


def test_a_teacher_that_is_there_is_not_trained(tmp_path):
    words = ["--out", str(tmp_path), "--arch", "resnet8", "--teacher", "resnet8=mine.pt"]
    plan = plan_of(*words, "--recipes", "ours", "--train-options", "--lr 0.1")
    recorder = Recorder()

    for task in seed_table.tasks(plan, recorder).values():
        task()

    assert {command[0] for _, command in recorder.commands} == {"dreamforge", "recover"}
    assert all("mine.pt" in command for _, command in recorder.commands)


def test_the_table_has_every_stage_by_recipe():
    plan = plan_of()
    runs = {("seed", 0.5, 0): 0.60, ("seed", 0.5, 1): 0.70, ("ours", 0.5, 0): 0.8}

    rows = seed_page.accuracy_table(plan, found_of(plan, runs)).splitlines()

    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == [
        *("sparsity", "weights kept", "pruned", "repaired, ours", "repaired, real"),
        *(f"recovered, {recipe}" for recipe in ("seed", "ours", "ours-equal", "real")),
    ]
    kept = "| 50 % | 10 | 10.0 | 20.0 (1 seed) | - | 65.0 ± 7.1 | 80.0 (1 seed) | - | - |"
    assert rows[2:] == [kept, "| 90 % | - | - | - | - | - | - | - | - |"]


def test_work_and_the_cost_of_a_point_stand_beside_it():
    plan = plan_of()
    runs = {("ours", 0.9, 0): 0.5, ("ours", 0.9, 1): 0.5, ("real", 0.9, 0): 0.5}
    sets = {("ours", 0): manifest(40, 20.0), ("ours", 1): manifest(40, 20.0)}
    sets[("real", 0)] = manifest(40, None)

    rows = seed_page.work_table(plan, found_of(plan, runs, sets)).splitlines()[2:]

    # 20 s of synthesis and 12 of recovery for 40 points.
    assert rows[1] == (
        "| ours | 40 ± 0 | 20.0 ± 0.0 | 2.0 ± 0.0 | 75.0 ± 0.0 | 7 of 3 | 12.0 ± 0.0 | 0.8 ± 0.0 |"
    )
    assert rows[3] == "| real | 40 | - | - | 75.0 | 7 of 3 | 12.0 | - |"
    assert rows[0] == "| seed | - | - | - | - | - | - | - |"


def test_the_page_says_what_is_not_run_and_what_was_equal():
    plan = plan_of()
    runs = {("ours", 0.5, 0): 0.88, ("ours", 0.5, 1): 0.86, ("seed", 0.5, 0): 0.5}
    runs |= {("ours-equal", 0.5, 0): 0.7, ("ours-equal", 0.5, 1): 0.9}

    text = seed_page.render(plan, [found_of(plan, runs)])

    assert "5 of 32 runs are finished" in text
    assert "**resnet8**: teacher 90.0 %, 20 prunable weights" in text
    assert "**resnet20**: not run." in text
    assert "the updates of `seed`" in text
    assert "| resnet8 | -3.0 ± 1.4 | - |" in text  # ours above the teacher
    assert "| resnet8 | 20.0 (1 seed) | - |" in text  # where both have the seed
    other = seed_page.render(plan_of("--equal-options", "--steps 9"), [found_of(plan, runs)])
    assert "recovery of its own, `--steps 9`" in other


def test_a_panel_for_each_network(tmp_path):
    plan = plan_of()
    (panel,) = seed_page.panels([found_of(plan, {("real", 0.5, 0): 0.6, ("ours", 0.9, 0): 0.5})])
    assert [curve.name for curve in panel.curves] == ["ours", "real images"]
    assert (panel.title, panel.teacher) == ("resnet8", 0.9)

    curve = Curve(name="ours", x=(0.5, 0.9), mean=(0.8, 0.7), deviation=(0.1, 0.0))
    empty = Panel(title="none yet", curves=(), teacher=0.9)
    full = Panel(title="a $ is no formula", curves=(curve,), teacher=0.9)
    sizes = []
    for number in (1, 4, 5):
        plot_panels([empty, *[full] * (number - 1)], tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as picture:
            sizes.append(picture.size)
    assert sizes[0][0] < sizes[1][0] == sizes[2][0]
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]


class InThisProcess(processes.Runner):
    """Runs the real tools without starting Python anew, and the published recipe for a moment."""

    ran: list[str] = []  # noqa: RUF012  read by the test, cleared by it
    stop_at: str | None = None

    def run(self, name, command):
        self.refuse_late()
        if name == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
            while not self._is_stopped:  # the main thread hears of it
                time.sleep(0.01)
        if self._is_stopped:
            raise DreamforgeError("not begun: the benchmark is being ended")
        type(self).ran.append(name)
        tool, *words = command
        if tool == "train_teacher":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["train_teacher.py", *words])
                assert train_teacher.main() == 0
            return
        group = {"dreamforge": dreamforge.cli, "recover": recover.cli}.get(tool, transfer_sets)
        if "--preset" in words:
            words += ["--steps", "2"]
        result = CliRunner().invoke(group.main, words)
        if result.exit_code:
            raise DreamforgeError(result.output.splitlines()[-1])


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A table of one network on blobs, in this process."""
    for split, number in (("train", 32), ("test", 16)):
        images, labels = blobs(number, seed=number)
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            folder = tmp_path / "blobs" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    monkeypatch.setattr(seed_table, "Runner", InThisProcess)
    monkeypatch.setattr(InThisProcess, "ran", [])
    return [
        *("--data", str(tmp_path / "blobs"), "--out", str(tmp_path / "out"), "--arch", "resnet8"),
        *("--sparsity", "0.5", "--seeds", "0", "--n", "16", "--seed-n", "16", "--epochs", "2"),
        *("--synth-steps", "2", "--steps", "3", "--recover-options", "--batch-size 8"),
        *("--equal-options", "--steps 2", "--train-options", "--image-size 8 --batch-size 16"),
    ]


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["seed_table.py", *words])
    return seed_table.main()


@pytest.mark.slow
def test_a_whole_table_through_both_tools_stopped_and_gone_on(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(InThisProcess, "stop_at", "resnet8/ours-0-s0.5")
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, *words)
    begun = list(InThisProcess.ran)
    assert begun == [
        *("resnet8/teacher", "resnet8/seed-0", "resnet8/seed-0-s0.5"),
        "resnet8/ours-0",
    ]

    assert "1 of 4 runs are finished" in capsys.readouterr().out
    monkeypatch.setattr(InThisProcess, "stop_at", None)
    assert call(monkeypatch, *words) == 0
    assert InThisProcess.ran[len(begun) :] == [
        *("resnet8/ours-0-s0.5", "resnet8/ours-equal-0", "resnet8/ours-equal-0-s0.5"),
        *("resnet8/real-0", "resnet8/real-0-s0.5"),
    ]
    first = capsys.readouterr().out
    assert "4 of 4 runs are finished" in first
    assert (tmp_path / "out" / "table.md").read_text() == first.removesuffix("\n")
    (row,) = [line for line in first.splitlines() if line.startswith("| ours-equal | ")]
    assert " | 2 of 32 | " in row
    made = json.loads((tmp_path / "out" / "resnet8" / "real-0-s0.5" / "report.json").read_text())
    assert made["provenance"]["dreams"]["num_images"] == 16
    with Image.open(tmp_path / "out" / "accuracy.png") as picture:
        assert picture.width > 500

    monkeypatch.setattr(InThisProcess, "run", lambda *_: pytest.fail("it ran again"))
    assert call(monkeypatch, *words) == 0
    assert capsys.readouterr().out == first
    for path in (tmp_path / "out").rglob("*-of-*.h5"):
        path.unlink()  # what a table takes along are indexes and reports
    assert call(monkeypatch, *words, "--render") == 0
    with pytest.raises(IncompatibleError, match="begun with --n 16, now 17"):
        call(monkeypatch, *words, "--n", "17")


def test_what_is_late_is_left_for_the_next_call(words, monkeypatch, capsys):
    assert call(monkeypatch, *words, "--only-seconds", "0") == 0

    assert "4 runs are left; the same command goes on: " in capsys.readouterr().err
    assert InThisProcess.ran == []


def test_there_is_nothing_to_render_in_an_empty_folder(words, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="no finished run in it yet"):
        call(monkeypatch, *words, "--render")
    assert not (tmp_path / "out").exists()
