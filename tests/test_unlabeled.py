"""Real images that a student is taught on beside the dreams."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import IMAGE_SHAPE, blobs
from dreamset_fixtures import write_dream_set
from PIL import Image
from recover_fixtures import blob_dreams, blob_photos, quick_config

import recover
from recover.cli import main
from recover.config import RecoverConfig
from recover.export import load_student
from recover.pipeline import recover_student
from recover.plan import plan_recovery
from recover.preparation import prepare
from recover.publish import publish
from recover.unlabeled import MixedFeed, Unlabeled, open_unlabeled
from shared.checkpoint import to_safetensors
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import ConfigError, IncompatibleError, InputFileError
from shared.evaldata import EvalData
from shared.feed import Feed
from shared.progress import Progress
from shared.teacher import Teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    blob = to_safetensors(tiny_teacher.network, tiny_teacher.spec.to_json())
    return blob_dreams(tmp_path_factory.mktemp("dreams"), tiny_teacher, teacher=blob)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images under names that mean nothing, some of them in folders."""
    return save_images(tmp_path / "photos", blobs(40, seed=5)[0])


def save_images(folder: Path, images: torch.Tensor) -> Path:
    for number, image in enumerate(images):
        home = folder / ("" if number % 2 else f"of/day {number % 3}")
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(home / f"{number:03d}.png")
    return folder


def keys(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def mixed(dreams: DreamSet, num_images: int, num_others: int, seed: int = 0) -> MixedFeed:
    feed = Feed(dreams, torch.arange(100), 12, CPU, seed)
    others = Unlabeled(images=blobs(num_images, seed=5)[0])
    return MixedFeed(feed, others, num_others, CPU, seed)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *QUICK, *map(str, arguments)])


QUICK = [
    *("--steps", "6", "--batch-size", "16", "--prune-every", "2", "--repair-images", "32"),
    *("--device", "cpu", "--precision", "float32"),
]


@pytest.mark.parametrize("num_images", [3, 4, 10, 40])
def test_every_batch_has_its_part_of_each_and_no_image_is_left_out(
    dreams: DreamSet, num_images: int
) -> None:
    feed = mixed(dreams, num_images, 4)
    alone = Feed(dreams, torch.arange(100), 12, CPU, 0)
    others = dict.fromkeys(keys(blobs(num_images, seed=5)[0]), 0)

    for step in range(20):
        images, labels = feed.batch(step)
        dreamt = [key for key in keys(images) if key not in others]
        assert sorted(dreamt) == sorted(keys(alone.batch(step)[0]))
        assert len(images) == feed.batch_size == 16
        for key, label in zip(keys(images), labels.tolist(), strict=True):
            assert (key in others) == (label == -1)
            if key in others:
                others[key] += 1

    assert sum(others.values()) == 80
    assert max(others.values()) - min(others.values()) <= 1  # each once a round


def test_a_batch_depends_on_seed_and_step_alone(dreams: DreamSet) -> None:
    feed = mixed(dreams, 10, 4)
    forward = [keys(feed.batch(step)[0]) for step in range(12)]
    fresh = mixed(dreams, 10, 4)

    assert [keys(fresh.batch(step)[0]) for step in reversed(range(12))] == forward[::-1]
    assert keys(mixed(dreams, 10, 4, seed=1).batch(0)[0]) != forward[0]


def test_it_does_not_depend_on_the_order_of_the_others(dreams: DreamSet) -> None:
    images = blobs(10, seed=5)[0]
    images[3] = images[7]  # the same photo twice
    feeds = [
        MixedFeed(Feed(dreams, torch.arange(100), 12, CPU, 0), Unlabeled(images=each), 4, CPU, 0)
        for each in (images, images.flip(0))
    ]

    for step in range(6):
        one, other = (feed.batch(step)[0] for feed in feeds)
        assert torch.equal(one, other)


def test_others_stand_anywhere_in_a_batch(dreams: DreamSet) -> None:
    feed = mixed(dreams, 10, 4)
    places = torch.stack([feed.batch(step)[1] == -1 for step in range(50)])

    assert bool((places.sum(1) == 4).all())
    assert bool(places.any(0).all())


def test_images_of_a_folder_have_no_order_and_no_names(photos: Path, tmp_path: Path) -> None:
    found = open_unlabeled(photos, IMAGE_SHAPE)
    images = blobs(40, seed=5)[0]
    flat = save_images(tmp_path / "other", images.flip(0))

    assert sorted(keys(found.images)) == sorted(keys(images))
    assert open_unlabeled(flat, IMAGE_SHAPE).digest == found.digest
    assert Unlabeled(images=images[1:]).digest != found.digest


def test_what_is_in_the_folder_now_counts(photos: Path) -> None:
    before = open_unlabeled(photos, IMAGE_SHAPE)
    (photos / "001.png").unlink()

    assert len(open_unlabeled(photos, IMAGE_SHAPE).images) == len(before.images) - 1


def test_an_empty_or_missing_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")

    with pytest.raises(InputFileError, match=r"--unlabeled .*empty: no images"):
        open_unlabeled(tmp_path / "empty", IMAGE_SHAPE)
    with pytest.raises(InputFileError, match=r"--unlabeled .*away: no such folder"):
        open_unlabeled(tmp_path / "away", IMAGE_SHAPE)


def test_what_dreams_do_not_show_is_learnt_from_real_images(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    black = torch.zeros(128, *IMAGE_SHAPE, dtype=torch.uint8)
    logits = tiny_teacher.logits(black)
    batch = DreamBatch(
        images=black,
        labels=logits.argmax(1),
        logits=logits.half(),
        batch=(torch.arange(128) // 8).int(),
        loss=torch.zeros(128),
    )
    (tmp_path / "set").mkdir()
    index = write_dream_set(tmp_path / "set", dreams=batch, spec=tiny_teacher.spec)
    dark = DreamSet.open(index)
    folder = save_images(tmp_path / "photos", blobs(40, seed=5)[0])
    images, labels = blobs(200, seed=9)
    real = EvalData(images=images, labels=labels)
    config = quick_config(sparsity=0.95, steps=80, lr=0.02)
    beside = dataclasses.replace(config, unlabeled=str(folder), unlabeled_share=0.5)

    without = recover_student(config, tiny_teacher, dark, real, tmp_path / "without")
    found = recover_student(beside, tiny_teacher, dark, real, tmp_path / "with")

    assert without.recovered.accuracy is not None
    assert found.recovered.accuracy is not None
    assert found.recovered.accuracy > 0.9
    assert without.recovered.accuracy < 0.7, found.recovered.accuracy


def test_a_killed_and_resumed_run_is_bit_for_bit_an_uninterrupted_one(
    tiny_teacher: Teacher,
    dreams: DreamSet,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
    config = quick_config(mix="both", flip=True, checkpoint_every=1e-9, unlabeled=str(photos))
    recover_student(config, tiny_teacher, dreams, None, tmp_path / "whole")

    def stop(report: Progress) -> None:
        if report.stage == "distill" and report.done >= 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "parts", stop)
    (photos / "001.png").rename(photos / "of" / "renamed.png")  # which is the same image
    changed = dataclasses.replace(config, unlabeled_share=0.5)
    with pytest.raises(IncompatibleError, match="--unlabeled-share"):
        recover_student(changed, tiny_teacher, dreams, None, tmp_path / "parts")
    saved = (photos / "003.png").read_bytes()
    (photos / "003.png").unlink()
    with pytest.raises(IncompatibleError, match="contents of --unlabeled"):
        recover_student(config, tiny_teacher, dreams, None, tmp_path / "parts")
    (photos / "003.png").write_bytes(saved)
    recover_student(config, tiny_teacher, dreams, None, tmp_path / "parts")

    for name in ("student.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_reports_and_students_say_what_they_were_taught_on(
    dreams: DreamSet, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"

    result = run("--dreams", dreams.path, "--unlabeled", photos, "--out", out)

    assert result.exit_code == 0, result.output
    assert "taught on 116 dreams and 40 real images" in result.stdout
    report = json.loads((out / "report.json").read_text())
    origin = report["provenance"]["unlabeled"]
    assert origin["num_images"] == 40
    assert origin["num_per_batch"] == 4
    assert origin["digest"] == open_unlabeled(photos, IMAGE_SHAPE).digest
    assert report["config"]["unlabeled_share"] == 0.25
    assert load_student(out / "student.safetensors").facts["num_unlabeled"] == 40
    publish([out], tmp_path / "page.html")
    assert "real images trained on" in (tmp_path / "page.md").read_text()


def test_a_finished_run_is_that_of_its_images(
    dreams: DreamSet, photos: Path, tmp_path: Path
) -> None:
    arguments = ("--dreams", dreams.path, "--unlabeled", photos, "--out", tmp_path / "student")
    assert run(*arguments).exit_code == 0

    again = run(*arguments)
    without = run("--dreams", dreams.path, "--out", tmp_path / "student")
    (photos / "001.png").unlink()
    fewer = run(*arguments)
    shutil.rmtree(photos)
    gone = run(*arguments)

    assert "already finished" in again.stderr
    assert "already finished" in gone.stderr
    assert (without.exit_code, fewer.exit_code) == (4, 4)
    assert "--unlabeled" in without.stderr
    assert "contents of --unlabeled" in fewer.stderr


@pytest.mark.parametrize("found", ["forty", {"num_images": "forty"}, [40]])
def test_what_a_report_says_of_them_may_be_anything(
    dreams: DreamSet, tmp_path: Path, found: object
) -> None:
    arguments = ("--dreams", dreams.path, "--out", tmp_path / "student")
    assert run(*arguments).exit_code == 0
    report = tmp_path / "student" / "report.json"
    record = json.loads(report.read_text())
    record["provenance"]["unlabeled"] = found
    report.write_text(json.dumps(record))

    again = run(*arguments)

    assert again.exit_code == 0, again.output
    assert "taught on" not in again.stdout


def test_images_that_are_learnt_from_and_judged_by_are_told_of(
    tiny_teacher: Teacher, dreams: DreamSet, photos: Path, tmp_path: Path
) -> None:
    config = quick_config(unlabeled=str(photos))
    seen, (others, labels) = blobs(40, 5)[0][:7], blobs(20, 9)
    judged = torch.cat([seen, others])
    real = EvalData(images=judged, labels=torch.cat([blobs(40, 5)[1][:7], labels]))

    report = recover_student(config, tiny_teacher, dreams, real, tmp_path / "out")

    shared = [text for text in report.warnings if "--unlabeled" in text]
    assert shared[0].startswith("7 of the 27 images of --eval-data are among those of --unlabeled")
    other = EvalData(images=others, labels=labels)
    clean = recover_student(config, tiny_teacher, dreams, other, tmp_path / "clean")
    assert not [text for text in clean.warnings if "--unlabeled" in text]


@pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")  # few held-out dreams
def test_levels_of_a_sweep_and_calls_from_python_have_them(
    tiny_teacher: Teacher, dreams: DreamSet, photos: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"steps": 4, "batch_size": 16, "device": "cpu"}
    levels = recover.run_sweep(
        dreams, sparsity=[0.5, 0.8], out=tmp_path / "levels", unlabeled=str(photos), **options
    )
    one = recover.run(dreams, sparsity=0.5, out=tmp_path / "one", unlabeled=photos, **options)

    for found in (*levels, one):
        assert found.report.provenance["unlabeled"]["num_images"] == 40
    again = recover.run_sweep(
        dreams, sparsity=[0.5, 0.8], out=tmp_path / "levels", unlabeled=str(photos), **options
    )
    assert [level.report for level in again] == [level.report for level in levels]


@pytest.mark.parametrize(("share", "num_others"), [(0.01, 1), (0.25, 4), (0.5, 8), (0.99, 15)])
def test_a_share_leaves_room_for_both(
    tiny_teacher: Teacher, dreams: DreamSet, photos: Path, share: float, num_others: int
) -> None:
    config = quick_config(unlabeled=str(photos), unlabeled_share=share)

    setup = prepare(config, tiny_teacher, dreams)
    plan = plan_recovery(setup)

    assert isinstance(setup.feed, MixedFeed)
    assert setup.feed.num_others == plan.num_unlabeled_per_batch == num_others
    assert setup.num_rows_per_batch == 16
    assert plan.num_unlabeled == 40


@pytest.mark.parametrize(
    ("batch_size", "share", "num_others"), [(256, 0.25, 39), (256, 0.5, 116), (256, 0.001, 1)]
)
def test_a_share_is_that_of_a_batch_of_few_dreams_too(
    tiny_teacher: Teacher,
    dreams: DreamSet,
    photos: Path,
    batch_size: int,
    share: float,
    num_others: int,
) -> None:
    """Of 128 dreams 116 are trained on; with 39 others 39 of 155 are a quarter."""
    config = quick_config(batch_size=batch_size, unlabeled=str(photos), unlabeled_share=share)

    setup = prepare(config, tiny_teacher, dreams)
    _, labels = setup.feed.batch(0)

    assert int((labels == -1).sum()) == setup.num_unlabeled_per_batch == num_others
    assert len(labels) == setup.num_rows_per_batch


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="found no --unlabeled"):
        RecoverConfig(unlabeled_share=0.3)
    with pytest.raises(ConfigError, match="expected less than 1"):
        RecoverConfig(unlabeled="photos", unlabeled_share=1.0)


def test_a_folder_without_a_name_is_refused_and_not_the_one_that_one_is_in(
    dreams: DreamSet, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    (tmp_path / "nothing.toml").write_text('[run]\nunlabeled = ""\n')
    called = ["run", "--dreams", str(dreams.path), "--out", str(tmp_path / "student")]

    for arguments in (
        [*called, "--unlabeled", ""],
        ["--config", str(tmp_path / "nothing.toml"), *called],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert "error: --unlabeled: found nothing, expected" in result.stderr
        assert result.stderr.count("\n") == 1
    with pytest.raises(ConfigError, match="--unlabeled: found nothing"):
        recover.run(dreams, out=tmp_path / "student", unlabeled="")
    assert not (tmp_path / "student").exists()


def test_class_folders_are_folders_like_others(
    tiny_teacher: Teacher, tmp_path: Path, dreams: DreamSet
) -> None:
    (tmp_path / "classes").mkdir()
    photos = blob_photos(tmp_path / "classes", tiny_teacher, 12)
    shown = run("--dreams", dreams.path, "--unlabeled", photos, "--dry-run")

    assert shown.exit_code == 0, shown.output
    assert "12, 4 of a batch" in " ".join(shown.stdout.split())
