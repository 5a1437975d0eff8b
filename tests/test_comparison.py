import dataclasses
import json
from pathlib import Path

import pytest
from recover_fixtures import blob_dreams, quick_config

from recover.cli import main
from recover.comparison import compare_runs, comparison_table, spearman
from recover.examine import examine_student
from recover.export import load_student
from recover.pipeline import recover_student
from recover.report import RecoveryReport, StageRecord
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError, InputFileError
from shared.teacher import Teacher


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 400], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # 1 - 6 sum d^2 / (n (n^2 - 1)), with d = (1, 1, 1, 1, 0).
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 1 - 6 * 4 / 120),
        # Ranks (1.5, 1.5, 3) and (1, 2, 3): Pearson's correlation of these.
        ([7, 7, 9], [1, 2, 3], 3**0.5 / 2),
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [2], None),
    ],
)
def test_rank_correlations_by_hand(first, second, found):
    assert spearman(first, second) == (found if found is None else pytest.approx(found, abs=1e-6))


def write_run(
    folder: Path,
    score: float | None,
    accuracy: float | None = None,
    *,
    sparsity: float = 0.8,
    digest: str = "d",
    teacher: str = "t",
    seed: int = 0,
    error: float = 0.0,
    num_real: int | None = None,
    judged_on: object = None,
    config: dict[str, object] | None = None,
) -> Path:
    """A finished run of these figures."""
    stage = StageRecord(
        accuracy=accuracy,
        agreement=0.5,
        agreement_on_dreams=1.0,
        sparsity=sparsity,
        num_nonzero=1,
        agreement_on_varied=score,
        divergence=None if score is None else 1 - score,
        score=score,
        score_error=None if score is None else error,
    )
    report = RecoveryReport(
        sparsity=sparsity,
        teacher=stage,
        pruned=stage,
        repaired=stage,
        recovered=stage,
        seconds=1.0,
        out=str(folder),
        num_weights=10,
        num_kept=1,
        layers=(),
        config={"seed": seed, "holdout": 0.1, **(config or {})},
        provenance={
            "teacher": {"fingerprint": teacher},
            "dreams": {"digest": digest},
            "num_eval_images": num_real,
            "eval_data_digest": judged_on,
        },
        warnings=(),
    )
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report.to_json()))
    return folder


def test_runs_come_best_first_and_those_without_a_score_last(tmp_path):
    for name, score in (("low", 0.2), ("none", None), ("high", 0.9), ("zero", 0.0)):
        write_run(tmp_path / name, score)

    found = compare_runs([tmp_path])

    assert [run.folder.name for run in found.results] == ["high", "low", "zero", "none"]
    assert [row[2] for row in comparison_table(found).rows] == [
        *("90.00 %", "20.00 %", "0.00 %", "-")
    ]
    assert (found.correlation, found.num_ranked) == (None, 0)
    assert "1 of 4 runs have no score" in found.remarks[0]


def test_the_score_is_held_against_real_accuracies(tmp_path):
    # At each level the score is exactly wrong, over both it looks good.
    runs = [(0.5, 0.91, 0.97), (0.5, 0.92, 0.96), (0.5, 0.93, 0.95)]
    runs += [(0.9, 0.11, 0.17), (0.9, 0.12, 0.16), (0.9, 0.13, 0.15)]
    for number, (sparsity, score, accuracy) in enumerate(runs):
        write_run(tmp_path / str(number), score, accuracy, sparsity=sparsity)

    found = compare_runs([tmp_path])

    assert found.num_ranked == 6
    assert found.correlation == pytest.approx(1 - 6 * 16 / 210, abs=1e-6)
    assert found.correlation_at_level == pytest.approx(-1)
    assert found.to_json()["spearman_at_equal_sparsity"] == found.correlation_at_level


def test_two_runs_have_no_rank_correlation(tmp_path):
    write_run(tmp_path / "a", 0.5, 0.5)
    write_run(tmp_path / "b", 0.6, 0.6)

    assert compare_runs([tmp_path]).correlation is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"digest": "other"}, "different dream sets"),
        ({"seed": 1}, "held out different dreams"),
        ({"error": 0.2}, "less than the standard error"),
        ({"num_real": 7}, "different numbers of real images (7, 60)"),
        ({"judged_on": "other"}, "judged on different real images"),
        ({"judged_on": ["whatever"]}, "judged on different real images"),
    ],
)
def test_what_makes_a_ranking_doubtful_is_said(tmp_path, changes, text):
    usual = {"num_real": 60, "judged_on": "these"}
    write_run(tmp_path / "a", 0.5, **usual)
    write_run(tmp_path / "b", 0.6, **(usual | changes))

    assert [text in remark for remark in compare_runs([tmp_path]).remarks] == [True]


def test_students_of_two_teachers_are_not_compared(tmp_path):
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.6, teacher="other")
    (tmp_path / "empty").mkdir()

    with pytest.raises(IncompatibleError, match="compare students of one teacher"):
        compare_runs([tmp_path])
    with pytest.raises(InputFileError, match="no finished run"):
        compare_runs([tmp_path / "a", tmp_path / "empty"])


def test_the_command_prints_a_table_or_a_record(runner, tmp_path):
    for number in range(3):
        write_run(tmp_path / str(number), number / 10, number / 9)

    shown = runner.invoke(main, ["compare", str(tmp_path)])
    listed = runner.invoke(main, ["compare", str(tmp_path), "--json"])

    assert shown.exit_code == listed.exit_code == 0, shown.output
    assert "1.000 over 3 runs, 1.000 among runs of equal sparsity" in shown.stdout
    record = json.loads(listed.stdout)
    assert [run["score"] for run in record["runs"]] == [0.2, 0.1, 0.0]
    assert record["spearman"] == 1


def test_the_record_says_of_what_kind_a_student_is(runner, tmp_path):
    kinds = {"pattern": "2:4", "student": "resnet8", "channels": 0.5}
    for score, (name, value) in enumerate(kinds.items()):
        write_run(tmp_path / name, score / 10, config={name: value})

    runs = json.loads(runner.invoke(main, ["compare", str(tmp_path), "--json"]).stdout)["runs"]

    assert [[run[name] for name in kinds] for run in reversed(runs)] == [
        *(["2:4", None, None], [None, "resnet8", None], [None, None, 0.5])
    ]


def test_a_hostile_word_is_shown_as_plain_text(runner, tmp_path):
    """Lone surrogates are no text that could be written, escapes would act on the terminal."""
    write_run(tmp_path / "a", 0.5, config={"pattern": "2:4\ud800\x1b[2J"})

    shown = runner.invoke(main, ["compare", str(tmp_path / "a")])

    assert shown.exit_code == 0, shown.output
    assert "2:4??[2J (80 %)" in shown.stdout


def test_a_report_of_an_earlier_version_is_read(tmp_path):
    path = write_run(tmp_path / "run", 0.5, 0.5) / "report.json"
    record = json.loads(path.read_text())
    for name in ("agreement_on_varied", "divergence", "score", "score_error"):
        for stage in ("teacher", "pruned", "repaired", "recovered"):
            del record[stage][name]

    found = RecoveryReport.from_json(record, "old")

    assert found.recovered.score is found.recovered.divergence is None
    assert found.recovered.accuracy == 0.5


def test_a_run_records_its_score_and_eval_finds_the_same(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    dreams: DreamSet = blob_dreams(tmp_path, tiny_teacher)
    config = quick_config(sparsity=0.9, steps=20)

    report = recover_student(config, tiny_teacher, dreams, None, tmp_path / "out")
    student = load_student(tmp_path / "out" / "student.safetensors")
    verdict = examine_student(student, tiny_teacher, dreams, None, "cpu")
    blind = examine_student(student, None, dreams, None, "cpu")

    assert report.teacher.score == 1
    assert report.pruned.score is not None
    assert report.recovered.score is not None
    assert report.pruned.score < report.recovered.score < 1
    assert report.recovered.divergence is not None
    assert dataclasses.asdict(verdict.stage) == pytest.approx(
        dataclasses.asdict(report.recovered), abs=1e-5
    )
    assert blind.stage.score is None


@pytest.mark.parametrize("value", [["2:4"], 7])
def test_a_recorded_word_that_is_none_is_one_line(runner, tmp_path, value):
    write_run(tmp_path / "run", 0.5, config={"pattern": value})

    shown = runner.invoke(main, ["compare", str(tmp_path)])

    assert shown.exit_code == 3
    assert shown.stderr.count("\n") == 1
