import dataclasses
import errno
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import blobs
from PIL import Image
from recover_fixtures import blob_dreams, quick_config

from recover import figures
from recover.cli import main
from recover.figures import Line
from recover.html_report import to_html
from recover.markdown_report import escape, to_markdown
from recover.page import Page, Section, compose
from recover.publish import publish
from recover.report import RecoveryReport
from recover.results import find_results, read_report
from recover.series import curves, series
from recover.sweep import plan_levels, run_sweep
from recover.tables import Table, costs_table, labels_of, levels_table, num_bytes
from shared.errors import ConfigError, IncompatibleError, InputFileError
from shared.evaldata import EvalData
from shared.files import UnwritableError
from shared.teacher import Teacher

VOID = {"meta", "img", "br", "path", "use", "line", "rect"}
EVIL = '<script>alert("x")</script>|`$a$` ](javascript:1) http://evil.test/x'


class Checker(HTMLParser):
    """Collects tags, addresses and ids; fails where tags do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("src", "href") if name in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        assert not any(name.startswith("on") for name in values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker


@pytest.fixture(scope="module")
def levels(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two levels, judged on real images."""
    home = tmp_path_factory.mktemp("sweep")
    dreams = blob_dreams(home / "set", tiny_teacher, provenance={"synthetic": False})
    images, labels = blobs(60, seed=5)
    configs = [quick_config(sparsity=sparsity) for sparsity in (0.5, 0.9)]
    real = EvalData(images=images, labels=labels)
    plan = plan_levels(configs, tiny_teacher, dreams, real, home / "levels")
    run_sweep(plan, tiny_teacher, dreams, real, command="recover sweep --dreams dreams.h5")
    return home / "levels"


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "dreams.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return path


def copied(levels: Path, target: Path, **changes: Any) -> Path:
    """A copy of a sweep whose reports have other values."""
    shutil.copytree(levels, target)
    for path in target.glob("*/report.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def provenance_of(levels: Path) -> dict[str, Any]:
    return read_report(levels / "s0.5").provenance


def test_the_page_shows_everything_and_loads_nothing(levels: Path, png: Path, tmp_path: Path):
    published = publish([levels], tmp_path / "report.html", bounds=[levels], preview=png)

    text = published.html.read_text()
    checker = check(text)
    shown = " ".join(checker.text)
    for part in (
        *("Accuracy on 60 real images", "What repair and distillation give", "Distillation loss"),
        *("Which layers are pruned", "Which classes pay", "The dreams", "do not speed PyTorch up"),
        *("recover sweep --dreams dreams.h5", "real images (bound)", "resnet8", "top left"),
    ):
        assert part in shown
    assert "http" not in text.replace("http-equiv", "")
    assert not {"script", "link", "iframe", "object", "form"} & set(checker.tags)
    assert all(re.match(r"#|data:image/png;base64,", address) for address in checker.addresses)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert checker.tags.count("svg") == 4
    assert len(checker.ids) == len(set(checker.ids))


def test_the_same_runs_make_the_same_bytes(levels: Path, tmp_path: Path):
    pages = [publish([levels], tmp_path / name).html.read_bytes() for name in ("a.html", "b.html")]

    assert pages[0] == pages[1]


def test_strings_from_files_are_never_markup(levels: Path, tmp_path: Path):
    evil = copied(levels, tmp_path / "evil", warnings=[EVIL])
    for path in evil.glob("*/report.json"):
        record = json.loads(path.read_text())
        record["provenance"]["teacher"]["class_names"] = [f"{EVIL}{n}" for n in range(4)]
        record["provenance"]["teacher"]["architecture"] = EVIL
        record["provenance"]["command"] = EVIL + "\n```\n<b>\x1b[31m"
        record["provenance"]["device"] = record["costs"]["device"] = EVIL
        record["provenance"]["versions"] = {EVIL: EVIL}
        record["provenance"]["dreams"]["path"] = EVIL
        record["config"] |= {"schedule": EVIL, EVIL: EVIL}
        record["layers"][0]["name"] = EVIL
        path.write_text(json.dumps(record))
    (evil / "s0.5").rename(evil / "<script>x")

    published = publish([evil, copied(levels, tmp_path / "b")], tmp_path / "r.html", title=EVIL)

    text = published.html.read_text()
    assert not {"script", "b"} & set(check(text).tags)
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text
    markdown = published.markdown.read_text()
    prose = re.sub(r"^(`{3,})sh\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)[<>`]", prose)
    assert "\x1b" not in text + markdown
    for line in prose.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[0] == cells[-1] == ""


def test_rows_of_a_markdown_table_have_as_many_cells_as_its_head():
    rows = ((EVIL, "a|b", "\\|"), ("1. x", "- y", "\n\n# z"))
    table = Table(title="", columns=("a", "b", "c"), rows=rows)
    page = Page(title="t", subtitle="s", sections=(Section(title="x", tables=(table,)),))

    lines = [line for line in to_markdown(page).splitlines() if line.startswith("|")]

    assert len(lines) == 4
    for line in lines:
        bars = re.sub(r"\\(.)", "", line).count("|")
        assert bars == 4


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("99.40 %", "99.40 %"),
        ("-0.37", "-0.37"),
        ("1. one", r"1\. one"),
        ("- one", r"\- one"),
        ("---", r"\---"),
        ("http://x", r"http\://x"),
        ("www.x.org", r"www\.x.org"),
        ("a: b", "a: b"),
        ("<b>", r"\<b\>"),
    ],
)
def test_markdown_is_escaped_where_it_means_something(text: str, escaped: str):
    assert escape(text) == escaped


def test_an_empty_page_is_well_formed():
    page = Page(title="<", subtitle="&", sections=(Section(title='"'),))

    assert "<title>&lt;</title>" in to_html(page)
    check(to_html(page))


def test_the_gap_to_the_bound_is_in_points(levels: Path, tmp_path: Path):
    def at(accuracy: float, name: str) -> Path:
        folder = copied(levels, tmp_path / name)
        for path in folder.glob("*/report.json"):
            record = json.loads(path.read_text())
            record["recovered"]["accuracy"] = accuracy
            path.write_text(json.dumps(record))
        return folder

    results, _ = find_results([at(0.8, "dreams")])
    bounds, _ = find_results([at(0.85, "real"), at(0.87, "other seed") / "s0.5"])

    table = levels_table(results, bounds)

    assert table.columns[-2:] == ("real images", "gap")
    assert [row[-2:] for row in table.rows] == [("86.00 %", "-6.00"), ("85.00 %", "-5.00")]
    assert levels_table(results, bounds[:0]).columns[-1] == "agreement"


def test_levels_that_start_from_each_other_say_so(levels: Path, tmp_path: Path):
    warm = copied(levels, tmp_path / "warm")
    for path, start in (("s0.5", 0.0), ("s0.9", 0.5)):
        record = json.loads((warm / path / "report.json").read_text())
        record["config"]["warm_start"] = start
        (warm / path / "report.json").write_text(json.dumps(record))

    def page(folder: Path, bound: Path) -> str:
        published = publish([folder], tmp_path / "r.html", bounds=[bound], overwrite=True)
        return " ".join(check(published.html.read_text()).text)

    starts, gap = "Each level starts from the student of the level below", "the gap is of that, too"
    assert starts in page(warm, warm)
    assert gap not in page(warm, warm)
    assert gap in page(warm, levels)
    assert gap in page(levels, warm)
    assert starts not in page(levels, levels)
    assert gap not in page(levels, levels)


def test_without_real_images_agreement_on_dreams_is_shown(levels: Path, tmp_path: Path):
    blind = copied(levels, tmp_path / "blind")
    for path in blind.glob("*/report.json"):
        record = json.loads(path.read_text())
        for stage in ("teacher", "pruned", "repaired", "recovered"):
            record[stage]["accuracy"] = None
        record["provenance"]["num_eval_images"] = None
        path.write_text(json.dumps(record))

    results, _ = find_results([blind])

    assert levels_table(results).title == "Agreement with the teacher on 12 held-out dreams"
    assert levels_table(results).columns == (
        *("sparsity", "teacher", "pruned", "repaired", "recovered"),
    )
    check(to_html(compose(results)))


def test_reports_of_earlier_versions_are_read(levels: Path, tmp_path: Path):
    old = copied(levels, tmp_path / "old")
    for path in old.glob("*/report.json"):
        record = json.loads(path.read_text())
        del record["costs"], record["classes"]
        path.write_text(json.dumps(record))
    (old / "s0.5" / "metrics.jsonl").unlink()

    results, _ = find_results([old])

    assert costs_table(results) is None
    assert results[0].losses == ()
    check(to_html(compose(results)))


def test_a_report_reads_back_as_it_was_written(levels: Path):
    record = json.loads((levels / "s0.9" / "report.json").read_text())

    report = RecoveryReport.from_json(record, "here")

    assert json.loads(json.dumps(report.to_json())) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"sparsity": "0.5"},
        {"sparsity": None},
        {"sparsity": 1e300},
        {"teacher": None},
        {"teacher": {}},
        {"layers": [{}]},
        {"layers": 3},
        {"num_kept": 1.5},
        {"provenance": []},
        {"config": None},
        {"config": {"sparsity": None}},
        {"config": {"sparsity": "0.5"}},
        {"config": {"steps": []}},
        {"config": {"student": 3}},
        {"config": {"pattern": {}}},
        {"config": {"schedule": 1, "importance": None}},
        {"config": {"seed": []}},
        {"config": {"holdout": {}}},
        {"config": {"warm_start": []}},
        {"classes": [{"label": "x"}]},
        {"classes": [1]},
        {"costs": {"macs_dense": 1}},
        {"warnings": None},
    ],
)
def test_nonsense_in_a_report_is_one_line(levels: Path, changes: dict[str, Any]):
    record = json.loads((levels / "s0.9" / "report.json").read_text())

    with pytest.raises(InputFileError, match="here: no report of recover run"):
        RecoveryReport.from_json(record | changes, "here")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sparsity": NaN}', "\xff", "[" * 100])
def test_a_damaged_report_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "report.json").write_text(text, encoding="latin-1")

    with pytest.raises(InputFileError, match=r"report\.json"):
        find_results([tmp_path])


@pytest.mark.parametrize("row", ['{"step": 1}', f'{{"step": 1, "loss": {"9" * 400}}}'])
def test_damaged_metrics_are_one_line(levels: Path, tmp_path: Path, row: str):
    broken = copied(levels, tmp_path / "broken")
    (broken / "s0.5" / "metrics.jsonl").write_text(f"{row}\n")

    with pytest.raises(InputFileError, match=r"metrics\.jsonl: no metrics"):
        find_results([broken])


def test_folders_without_a_finished_run_are_refused(levels: Path, tmp_path: Path):
    (tmp_path / "begun" / "s0.5").mkdir(parents=True)
    (tmp_path / "begun" / "s0.5" / "checkpoint.pt").write_bytes(b"")

    for folder in (tmp_path / "begun", tmp_path / "missing", tmp_path):
        with pytest.raises(InputFileError, match=r"no finished run|no such folder"):
            find_results([folder])
    half = copied(levels, tmp_path / "half")
    shutil.copytree(tmp_path / "begun" / "s0.5", half / "s0.95")

    results, remarks = find_results([half, half / "s0.5"])
    assert len(results) == 2
    assert remarks == [f"{half / 's0.95'} is not finished and left out"]


def test_students_of_two_teachers_make_no_report(levels: Path, tmp_path: Path):
    origin = provenance_of(levels)
    origin["teacher"]["fingerprint"] = "0" * 64
    other = copied(levels, tmp_path / "other", provenance=origin)

    with pytest.raises(IncompatibleError, match="another teacher"):
        publish([levels, other], tmp_path / "r.html")


def test_runs_judged_on_other_images_are_remarked(levels: Path, tmp_path: Path):
    other = copied(
        levels, tmp_path / "o", provenance=provenance_of(levels) | {"num_eval_images": 7}
    )

    published = publish([levels], tmp_path / "r.html", bounds=[other])

    on_images, on_bound = published.remarks
    assert on_images == "the runs were judged on different numbers of real images (7, 60)"
    assert on_bound.startswith(f"no gap to {other / 's0.5'}, {other / 's0.9'}: not judged on")


@pytest.mark.parametrize("names", [(b"a", b"a"), (b"caf\xe9 1", b"caf\xe9 2")])
def test_names_that_are_no_text_are_drawn_all_the_same(
    levels: Path, tmp_path: Path, names: tuple[bytes, bytes]
):
    record = json.loads((levels / "s0.5" / "report.json").read_text())
    folders = [tmp_path / str(number) / os.fsdecode(name) for number, name in enumerate(names)]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        config = record["config"] | {"steps": 10 + number}
        if names[0] == names[1]:
            config["pattern" if number else "student"] = "\ud800"
        (folder / "report.json").write_text(json.dumps(record | {"config": config}))

    published = publish(folders, tmp_path / "r.html")

    check(published.html.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["report.json", "checkpoint.pt", ".recover.next"])
def test_no_page_is_called_as_a_run_calls_its_own(levels: Path, tmp_path: Path, name: str):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()

    with pytest.raises(ConfigError, match=f"{name}: found the name of a run's own file"):
        publish([levels], unfinished / name)
    assert not list(unfinished.iterdir())


@pytest.mark.parametrize("name", ["report.json", "metrics.jsonl", "page.html", "page.md"])
def test_nothing_but_pages_is_replaced(levels: Path, tmp_path: Path, name: str):
    out = copied(levels, tmp_path / "levels") / "s0.5" / name
    if not out.exists():
        out.write_text("<!doctype html>\n# mine\n")
    before = out.read_bytes()

    with pytest.raises(ConfigError, match=f"{name}: is there already and not of recover report"):
        publish(
            [out.parents[1]], out.with_suffix(".html") if name == "page.md" else out, overwrite=True
        )

    assert out.read_bytes() == before


def test_a_full_disk_leaves_both_files_as_they_were(
    levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "r.html"
    publish([levels], out)
    before = [path.read_bytes() for path in (out, out.with_suffix(".md"))]
    write_text = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if ".md." in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UnwritableError) as found:
        publish([levels], out, title="new", overwrite=True)

    assert found.value.filename == str(out.with_suffix(".md"))
    assert [path.read_bytes() for path in (out, out.with_suffix(".md"))] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "r.md"]


def test_what_is_there_is_not_overwritten_unasked(levels: Path, tmp_path: Path):
    out = tmp_path / "sub" / "r.html"
    publish([levels], out)
    for name in ("r.html", "r.md"):
        (tmp_path / "sub" / ("r.md" if name == "r.html" else "r.html")).unlink()
        with pytest.raises(ConfigError, match="--overwrite"):
            publish([levels], out)
        publish([levels], out, overwrite=True)
    with pytest.raises(ConfigError, match=r"expected an \.html"):
        publish([levels], tmp_path / "r.md")


@pytest.mark.parametrize("content", [b"", b"<svg onload='x'>", b"\x89PNG\r\n\x1a\n123", b"GIF89a"])
def test_a_preview_that_is_no_png_is_refused(levels: Path, tmp_path: Path, content: bytes):
    (tmp_path / "x.png").write_bytes(content)

    with pytest.raises(InputFileError, match="--preview"):
        publish([levels], tmp_path / "r.html", preview=tmp_path / "x.png")
    assert not (tmp_path / "r.html").exists()


def test_seeds_are_one_series_and_settings_are_several(levels: Path, tmp_path: Path):
    results, _ = find_results([levels])
    config = results[0].report.config
    seeds, _ = find_results([copied(levels, tmp_path / "seed", config=config | {"seed": 1})])
    rates, _ = find_results([copied(levels, tmp_path / "rate", config=config | {"lr": 1})])

    assert list(series([*results, *seeds])) == ["recovered on dreams"]
    assert set(series([*results, *rates])) == {"levels", "rate"}
    assert len(curves([*results, *seeds, *rates])) == 2
    assert labels_of(results) == ["50 %", "90 %"]
    usual = config | {"sparsity": 0.98, "importance": "fisher", "allocation": "lamp"}
    highest, _ = find_results([copied(levels, tmp_path / "highest", config=usual)])
    other, _ = find_results(
        [copied(levels, tmp_path / "m", config=usual | {"importance": "random"})]
    )
    assert list(series([*results, *highest])) == ["recovered on dreams"]
    assert set(series([*results, *other])) == {"levels", "m"}
    unusual, _ = find_results(
        [copied(levels, tmp_path / "g", config=usual | {"allocation": "global"})]
    )
    assert set(series([*results, *unusual])) == {"levels", "g"}
    assert labels_of([results[0], results[0]]) == ["50 % s0.5", "50 % s0.5"]


def test_levels_of_two_sweeps_are_told_apart_by_their_sweeps(levels: Path, tmp_path: Path):
    one, other = (copied(levels, tmp_path / name) for name in ("dl", "rl"))
    deep = copied(levels, tmp_path / "deep" / "dl")
    found = {result.folder: result for result in find_results([one, other, deep])[0]}

    runs = [found[folder / "s0.5"] for folder in (one, other)]
    assert labels_of(runs) == ["50 % dl/s0.5", "50 % rl/s0.5"]
    assert labels_of([*runs, found[other / "s0.9"]])[2] == "90 %"
    all_labels = labels_of([*runs, found[deep / "s0.5"]])
    assert all_labels[1:] == ["50 % rl/s0.5", "50 % deep/dl/s0.5"]
    assert len({*all_labels}) == 3


def test_the_most_pruned_run_is_that_of_which_most_is_gone(levels: Path, tmp_path: Path):
    """A student without three quarters of its weights has no zeros, and comes first."""
    target = copied(levels, tmp_path / "levels")
    path = target / "s0.9" / "report.json"
    record = json.loads(path.read_text())
    config = record["config"] | {"channels": 0.5, "steps": 77, "sparsity": 0.0}
    num_left = record["teacher"]["num_nonzero"] // 4
    path.write_text(json.dumps(record | {"config": config, "sparsity": 0.0, "num_kept": num_left}))

    results = find_results([target])[0]
    page = compose(results)

    assert [result.folder.name for result in results] == ["s0.9", "s0.5"]
    settings = next(part for part in page.sections if part.title.startswith("Settings"))
    assert ("--steps", "77") in settings.tables[0].rows


def test_figures_take_the_colors_of_the_page_and_no_markup_from_names():
    line = Line(name='$x^2$ <b>&"', x=(0.5, 0.9), y=(0.9, 0.8), low=(0.8, 0.7), high=(0.9, 0.9))

    svg = figures.against_sparsity(
        [line, dataclasses.replace(line, is_bound=True)], 0.95, "accuracy"
    )

    assert svg.startswith("<svg viewBox=")
    assert "var(--s1)" in svg
    assert "$x^2$ &lt;b&gt;&amp;" in svg
    assert not re.search(r"#[0-9a-fA-F]{6}", svg)
    assert "http" not in svg
    assert "<style" not in svg
    check(svg)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_figures_of_constant_and_empty_values(value: float):
    line = Line(name="a", x=(0.0,), y=(value,))

    for svg in (
        figures.losses([line]),
        figures.by_layer([line]),
        figures.against_sparsity([line], None, "agreement"),
        figures.stages(["0 %"], [("pruned", [None])], None, "agreement"),
    ):
        check(svg)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_094_000, "1.09 MB")]
)
def test_sizes_are_in_powers_of_a_thousand(count: int, text: str):
    assert num_bytes(count) == text


def report(runner: CliRunner, *arguments: object) -> Result:
    return runner.invoke(main, ["report", *map(str, arguments)])


def test_the_command_writes_both_files(runner: CliRunner, levels: Path, tmp_path: Path):
    out = tmp_path / "report.html"

    shown = report(runner, levels, "--out", out)
    refused = report(runner, levels, "--out", out)
    listed = report(
        runner, levels / "s0.5", "--bound", levels, "--out", out, "--overwrite", "--json"
    )

    assert shown.exit_code == 0, shown.output
    assert f"page: {out}" in shown.stdout
    assert "90 %" in shown.stdout
    assert refused.exit_code == 2
    record = json.loads(listed.stdout)
    assert (record["html"], record["markdown"]) == (str(out), str(tmp_path / "report.md"))
    assert [run["sparsity"] for run in record["runs"]] == [0.5]


def test_the_command_refuses_in_one_line(runner: CliRunner, levels: Path, tmp_path: Path):
    for arguments, exit_code in (
        ([tmp_path / "missing"], 3),
        ([levels, "--preview", tmp_path / "missing.png", "--out", tmp_path / "r.html"], 3),
        ([levels, "--bound", tmp_path, "--out", tmp_path / "r.html"], 3),
        ([], 2),
    ):
        result = report(runner, *arguments)
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
