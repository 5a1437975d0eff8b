"""Sets of images that a teacher answers: after an interruption the same command goes on."""

import errno
import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import blobs
from dreamset_fixtures import tiny_spec
from killing import Killed, kill_at
from PIL import Image
from torch import Tensor, nn

from dreamforge.cli import main
from dreamforge.drawings import draw
from dreamforge.import_images import import_images
from dreamforge.unfinished import unfinished_of
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamforgeError, InputFileError
from shared.shards import _writing
from shared.teacher import Teacher

NUM_IMAGES = 12


class Counted(nn.Module):
    """A linear classifier that counts the images it has seen, and may stop at one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 4, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.linspace(-1, 1, 768).sin().view(4, 192))
        self.seen = 0
        self.stops_at: int | None = None
        self.error: type[BaseException] = KeyboardInterrupt

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += len(inputs)
        if self.stops_at is not None and self.seen > self.stops_at:
            raise self.error
        logits: Tensor = self.linear(inputs.flatten(1))
        return logits


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(blobs(NUM_IMAGES, seed=3)[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    return folder


def make(kind: str, photos: Path, out: Path, network: Counted, **options: object) -> None:
    teacher = Teacher(network=network, spec=tiny_spec())
    out.parent.mkdir(exist_ok=True)
    if kind == "import":
        import_images(photos, teacher, out, shard_size=4, **options)  # type: ignore[arg-type]
    else:
        draw(teacher, NUM_IMAGES, out, shard_size=4, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_anywhere_the_same_call_ends_with_the_undisturbed_bytes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("import", photos, tmp_path / "whole" / "set.h5", Counted())
    expected = contents(tmp_path / "whole")
    number, most_spared, done = 0, 0, False
    while not done:
        out = tmp_path / str(number) / "set.h5"
        done = True
        try:
            with monkeypatch.context() as patch:
                kill_at(number, patch)
                make("import", photos, out, Counted())
        except Killed:
            done = False
        again = Counted()
        with suppress(ConfigError):  # it was whole, and has been put into its place
            make("import", photos, out, again)
        assert contents(out.parent) == expected
        most_spared = max(most_spared, NUM_IMAGES - again.seen)
        number += 1
    assert number > 6
    assert most_spared == NUM_IMAGES


def test_interrupted_it_answers_only_what_is_missing(photos: Path, tmp_path: Path) -> None:
    out, network = tmp_path / "out" / "set.h5", Counted()
    network.stops_at = 8
    with pytest.raises(KeyboardInterrupt):
        make("import", photos, out, network)
    assert not out.exists()
    (photos / "11.png").touch()  # no image has changed, but who would know?
    network = Counted()
    network.stops_at = 4
    with pytest.raises(KeyboardInterrupt):
        make("import", photos, out, network)
    assert network.seen == 8  # from the first on

    network = Counted()
    make("import", photos, out, network)

    assert network.seen == NUM_IMAGES - 4
    assert DreamSet.open(out).num_images == NUM_IMAGES


def test_a_damaged_shard_of_an_interrupted_call_is_made_again(photos: Path, tmp_path: Path) -> None:
    make("draw", photos, tmp_path / "whole" / "set.h5", Counted())
    out, network = tmp_path / "out" / "set.h5", Counted()
    network.stops_at = 8
    with pytest.raises(KeyboardInterrupt):
        make("draw", photos, out, network)
    shard = unfinished_of(out) / "set-00000-of-00003.h5"
    shard.write_bytes(shard.read_bytes()[:-100])

    make("draw", photos, out, Counted())

    assert contents(out.parent) == contents(tmp_path / "whole")


def left_by_an_interruption(photos: Path, out: Path, **options: object) -> Path:
    """The first two shards of three, where they wait."""
    network = Counted()
    network.stops_at = 8
    with pytest.raises(KeyboardInterrupt):
        make("draw", photos, out, network, **options)
    return unfinished_of(out)


def test_a_shard_of_another_set_is_made_again(photos: Path, tmp_path: Path) -> None:
    make("draw", photos, tmp_path / "whole" / "set.h5", Counted())
    make("draw", photos, tmp_path / "other" / "set.h5", Counted(), seed=1)
    out = tmp_path / "out" / "set.h5"
    left = left_by_an_interruption(photos, out)
    names = [f"set-0000{number}-of-00003.h5" for number in range(2)]
    (left / names[0]).write_bytes((tmp_path / "other" / names[0]).read_bytes())
    (left / names[1]).unlink()
    (left / names[1]).symlink_to(tmp_path / "other" / names[1])

    make("draw", photos, out, Counted())

    assert contents(out.parent) == contents(tmp_path / "whole")
    assert not any(path.is_symlink() for path in out.parent.iterdir())


@pytest.mark.parametrize("name", ["set-00001-of-00003.h5", "set-00002-of-00003.h5", "set.h5"])
def test_a_folder_in_the_place_of_a_file_is_no_hindrance(
    photos: Path, tmp_path: Path, name: str
) -> None:
    make("draw", photos, tmp_path / "whole" / "set.h5", Counted())
    out = tmp_path / "out" / "set.h5"
    left = left_by_an_interruption(photos, out)
    (left / name).unlink(missing_ok=True)
    (left / name / "below").mkdir(parents=True)

    network = Counted()
    make("draw", photos, out, network)

    assert network.seen == (8 if "00001" in name else 4)
    assert contents(out.parent) == contents(tmp_path / "whole")


def test_a_full_disk_leaves_what_is_whole(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, network = tmp_path / "out" / "set.h5", Counted()

    def full(path: Path, *rest: object, **options: object) -> None:
        with _writing(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dreamforge.assemble.write_index", full)
        with pytest.raises(DreamforgeError, match="No space left") as caught:
            make("import", photos, out, network)
    assert str(caught.value).startswith(f"{out}: ")  # and not a place that nobody knows
    network = Counted()
    with monkeypatch.context() as patch:
        patch.setattr("shared.evaldata.num_bytes_free", lambda device: 0)
        make("import", photos, out, network)  # nothing is left to read
    assert network.seen == 0

    with monkeypatch.context() as patch:
        patch.setattr("shared.evaldata.num_bytes_free", lambda device: 0)
        with pytest.raises(InputFileError, match="are free"):
            make("import", photos, tmp_path / "new" / "set.h5", network)
    assert not unfinished_of(
        tmp_path / "new" / "set.h5"
    ).exists()  # there is no shard to go on with


def test_what_would_fail_again_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    image = photos / "09.png"
    image.write_bytes(image.read_bytes()[:-60])  # its head is fine, so it is found when it is read
    with pytest.raises(InputFileError, match=r"09\.png"):
        make("import", photos, tmp_path / "out" / "set.h5", Counted())
    assert not list((tmp_path / "out").iterdir())
    network = Counted()
    (photos / "10.png").write_bytes(b"no image")
    with pytest.raises(InputFileError, match=r"10\.png"):
        make("import", photos, tmp_path / "out" / "set.h5", network)
    assert network.seen == 0  # such a thing is found before anything is answered

    network.stops_at, network.error = 8, DreamforgeError
    with pytest.raises(DreamforgeError):
        make("draw", photos, tmp_path / "out" / "set.h5", network)
    assert not list((tmp_path / "out").iterdir())


def test_another_set_at_that_place_clears_away_what_was_left(photos: Path, tmp_path: Path) -> None:
    out, network = tmp_path / "out" / "set.h5", Counted()
    network.stops_at = 8
    with pytest.raises(KeyboardInterrupt):
        make("draw", photos, out, network)
    assert unfinished_of(out).is_dir()

    make("import", photos, out, Counted())

    assert sorted(path.name for path in out.parent.iterdir()) == [
        "set-00000-of-00003.h5",
        "set-00001-of-00003.h5",
        "set-00002-of-00003.h5",
        "set.h5",
    ]


def test_no_more_images_are_in_memory_than_a_shard_has(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_image = 3 * 8 * 8
    monkeypatch.setattr("shared.evaldata.num_bytes_free", lambda device: 5 * one_image)

    make("import", photos, tmp_path / "out" / "set.h5", Counted())

    assert DreamSet.open(tmp_path / "out" / "set.h5").num_images == NUM_IMAGES


def test_the_command_says_that_it_goes_on_and_the_old_set_is_there(
    photos: Path, tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set.h5"
    words = ["draw", "--teacher", str(teacher_file), "--n", "12", "--shard-size", "4"]
    words += ["--out", str(out)]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["warnings"] == re.findall("assumed: (.+)", result.stderr)
    words += ["--seed", "1", "--overwrite"]
    before = out.read_bytes()
    answer, left = Teacher.logits, [0]

    def interrupted(self: Teacher, images: Tensor) -> Tensor:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGINT)
        left[0] -= 1
        return answer(self, images)

    monkeypatch.setattr(Teacher, "logits", interrupted)
    monkeypatch.setattr("sys.argv", ["dreamforge", *words])
    for num_shards, goes_on in ((0, "begins again"), (2, "goes on from here")):
        left[0] = num_shards
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 130, result.output
        assert f"the same command {goes_on}: " in result.stderr
        assert result.stderr.rstrip().endswith("--overwrite")
        assert out.read_bytes() == before
    monkeypatch.setattr(Teacher, "logits", answer)

    assert CliRunner().invoke(main, words).exit_code == 0
    assert DreamSet.open(out).manifest.synthesis["seed"] == 1


def test_interrupted_before_it_looks_at_what_is_left_it_goes_on(
    photos: Path, tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set.h5"
    words = ["import", str(photos), "--teacher", str(teacher_file), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["dreamforge", *words])

    def interrupted(*path: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shared.teacher.load_teacher", interrupted)
    assert "the same command begins again: " in CliRunner().invoke(main, words).stderr
    left_by_an_interruption(photos, out)
    assert "the same command goes on from here: " in CliRunner().invoke(main, words).stderr


def test_a_link_in_the_place_of_what_waits_is_not_followed(photos: Path, tmp_path: Path) -> None:
    out, network = tmp_path / "out" / "set.h5", Counted()
    network.stops_at = 8
    with pytest.raises(KeyboardInterrupt):
        make("import", photos, out, network)
    elsewhere = unfinished_of(out).rename(tmp_path / "elsewhere")
    before = contents(elsewhere)
    unfinished_of(out).symlink_to(elsewhere)

    make("import", photos, out, Counted())

    assert len(DreamSet.open(out)) == NUM_IMAGES
    assert contents(elsewhere) == before
    assert not unfinished_of(out).is_symlink()
