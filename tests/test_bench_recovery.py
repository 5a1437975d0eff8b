import sys
from pathlib import Path

import pytest
from conftest import QUADRANTS, blobs
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import bench_quality
import bench_recovery
import grid
import runner as processes
from plots import Curve, plot_against_seconds

from recover.report import RecoveryReport, StageRecord
from shared.errors import ConfigError

WORDS = ["--teacher", "t.pt", "--eval-data", "test", "--out", "out"]
SHOWN = ["--real", "train", "--sets", "real,dreams,seed", "--sparsity", "0.5,0.9", "--seeds", "0,1"]


def stage(accuracy, agreement=0.5):
    return StageRecord(
        accuracy=accuracy,
        agreement=agreement,
        agreement_on_dreams=agreement,
        sparsity=0.5,
        num_nonzero=10,
    )


def report(accuracy, agreement):
    return RecoveryReport(
        sparsity=0.5,
        teacher=stage(0.9),
        pruned=stage(0.1),
        repaired=stage(0.2),
        recovered=stage(accuracy, agreement),
        seconds=12.0,
        out="",
        num_weights=20,
        num_kept=10,
        layers=(),
        config={"steps": 7, "batch_size": 3},
        provenance={
            "teacher": {"architecture": "resnet8"},
            "num_eval_images": 50,
            "dreams": {"num_images": 40},
        },
        warnings=(),
    )


@pytest.fixture
def plan():
    return bench_recovery.plan(bench_recovery.parse_arguments([*WORDS, *SHOWN]))


@pytest.fixture
def reports():
    """Real 0.8 and 0.7 at 50 %, dreams 0.75 and 0.69; one seed of dreams at 90 %."""
    found = {
        ("real", 0.5, 0): (0.80, 0.1),
        ("real", 0.5, 1): (0.70, 0.1),
        ("dreams", 0.5, 0): (0.75, 0.9),
        ("dreams", 0.5, 1): (0.69, 0.8),
        ("dreams", 0.9, 0): (0.25, 0.7),
    }
    return {
        grid.Cell(source=source, sparsity=sparsity, seed=seed): report(*values)
        for (source, sparsity, seed), values in found.items()
    }


def test_all_sets_but_the_published_recipe_go_through_the_same_recovery(plan):
    recovers = {source.name: source.recover for source in plan.sources}

    assert recovers["real"] == recovers["dreams"] == ("--steps", "1500")
    assert recovers["seed"] == ("--preset", "tripurwar2025")
    makes = {source.name: " ".join(source.make) for source in plan.sources}
    assert makes["real"] == "transfer_sets choose --real train --teacher t.pt --n 4096"
    assert makes["dreams"] == "dreamforge synth --steps 100 --teacher t.pt --n 4096"
    assert makes["seed"] == "dreamforge synth --preset tripurwar2025 --teacher t.pt --n 1024"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sets", "dreams,sand"], "--sets: found 'dreams,sand'"),
        (["--sets", "dreams,dreams"], "--sets"),
        (["--sets", "real"], "--real is missing"),
        (["--sets", "dreams", "--sparsity", "1"], "--sparsity"),
    ],
)
def test_nonsense_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        bench_recovery.plan(bench_recovery.parse_arguments([*WORDS, *words]))


def test_a_sweep_is_asked_for_and_the_published_recipe_has_no_part_in_it():
    plan = bench_recovery.plan(bench_recovery.parse_arguments([*WORDS, *SHOWN, "--sweep"]))

    recovers = {source.name: source.recover for source in plan.sources}
    assert plan.sweeps
    assert recovers["dreams"] == ("--steps", "1500")
    assert recovers["seed"] == ("--preset", "tripurwar2025", "--no-warm-start")


def test_accuracies_stand_by_level_and_set_with_the_seeds_behind_them(plan, reports):
    rows = bench_recovery.accuracy_table(plan, reports).splitlines()

    assert rows[0] == "| sparsity | weights kept | real | dreams | seed |"
    assert rows[2] == "| 50 % | 10 | 75.0 ± 7.1 | 72.0 ± 4.2 | - |"
    assert rows[3] == "| 90 % | 10 | - | 25.0 (1 seed) | - |"


def test_the_gap_is_that_of_pairs_of_the_same_seed(plan, reports):
    rows = bench_recovery.gap_table(plan, reports).splitlines()

    # -5 and -1 points.
    assert rows[2:] == ["| 50 % | -3.0 ± 2.8 | - |", "| 90 % | - | - |"]


def test_runs_are_ranked_without_those_on_real_images(plan, reports):
    rows = bench_recovery.ranking_table(plan, reports).splitlines()

    assert rows[2:] == [
        "| all levels, all sets | 3 | +1.00 |",
        "| all levels, dreams | 3 | +1.00 |",
    ]


def test_a_page_is_rendered_of_whatever_is_finished(plan, reports):
    text = bench_recovery.render(plan, reports)

    assert "resnet8, teacher 90.0 % on 50 real images" in text
    assert "5 of 12 runs are finished" in text
    assert "the level below" not in text
    assert "- dreams: 40 images, 7 updates of 3, 12 s a run;" in text
    curves = bench_recovery.curves(plan, reports)
    assert [curve.name for curve in curves] == ["real images", "dreams"]
    assert curves[1].x == (0.5, 0.9)
    assert curves[1].mean == pytest.approx((0.72, 0.25))
    assert curves[1].deviation == pytest.approx((0.03 * 2**0.5, 0))


def test_a_page_of_sweeps_says_where_levels_start():
    plan = bench_recovery.plan(bench_recovery.parse_arguments([*WORDS, *SHOWN, "--sweep"]))
    found = {grid.Cell(source="dreams", sparsity=0.5, seed=0): report(0.75, 0.9)}

    assert "from the student of the level below, but those of 'seed'." in bench_recovery.render(
        plan, found
    )


def test_recipes_are_names_and_flags():
    assert bench_quality.parse_recipes("a=--steps 5; b=") == {"a": ("--steps", "5"), "b": ()}
    for text in ("", "a", "a=;a=", "a/b=--x"):
        with pytest.raises(ConfigError, match="--recipes"):
            bench_quality.parse_recipes(text)


def test_recipes_that_differ_in_steps_are_one_curve(tmp_path):
    words = [*WORDS, "--recipes", "s2=--steps 2;s1=--steps 1;w=--init white", "--sparsity", "0.5"]
    plan = bench_quality.plan(bench_quality.parse_arguments([*words, "--seeds", "0"]))
    cells = {cell: report(0.1 * len(cell.source), 0.5) for cell in plan.cells()}
    record = dict.fromkeys(("bn_distance", "diversity", "effective_rank"), 0.5)
    record |= {"teacher_accuracy": 1.0, "second_accuracy": None}
    qualities = {
        (name, 0): {"dreams": record, "real": record, "synthesis_seconds": seconds}
        for name, seconds in (("s2", 20.0), ("s1", 10.0), ("w", 15.0))
    }

    curves = bench_quality.curves(plan, cells, qualities)
    assert [(curve.labels, curve.x) for curve in curves] == [
        (("s1", "s2"), (10.0, 20.0)),
        (("w",), (15.0,)),
    ]
    rows = bench_quality.render(plan, cells, qualities).splitlines()
    assert "| s2 | 20 | 20.0 | 0.500 | 0.500 | 0.5 | 100.0 | - |" in rows
    assert "| (real images) | - | - | 0.500 | 0.500 | 0.5 | 100.0 | - |" in rows
    plot_against_seconds(curves, tmp_path / "plot.png", title="a $ is no formula")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 500


def test_a_point_needs_no_label(tmp_path):
    curve = Curve(name="one", x=(1.0,), mean=(0.5,), deviation=(0.0,))
    plot_against_seconds([curve], tmp_path / "plot.png", title="")

    assert (tmp_path / "plot.png").exists()


@pytest.mark.slow
def test_the_whole_way_through_both_tools(teacher_file, tmp_path, monkeypatch, capsys):
    images, labels = blobs(16)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "real" / QUADRANTS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    words = ["--teacher", str(teacher_file), "--eval-data", str(tmp_path / "real")]
    words += ["--out", str(tmp_path / "out"), "--sets", "noise", "--sparsity", "0.5"]
    words += ["--seeds", "0", "--n", "24", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["bench_recovery.py", *words])

    assert bench_recovery.main() == 0
    first = capsys.readouterr().out
    assert "1 of 1 runs are finished" in first
    assert (tmp_path / "out" / "accuracy.png").exists()
    assert (tmp_path / "out" / "table.md").read_text() == first.removesuffix("\n")

    monkeypatch.setattr(processes.Runner, "run", lambda *_: pytest.fail("it ran again"))
    assert bench_recovery.main() == 0
    assert capsys.readouterr().out == first
