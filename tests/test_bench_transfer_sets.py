import sys
from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_spec
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import transfer_sets

from shared.dreamset import DreamSet
from shared.errors import IncompatibleError, InputFileError
from shared.seeding import generator
from shared.teacher import Teacher


def draws(number=0):
    return generator(number, "test")


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


@pytest.fixture
def photographs(tmp_path):
    """Ten of one class, four of the other, each of its own gray."""
    for name, count in (("cat", 10), ("dog", 4)):
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (10 * number,) * 3).save(folder / f"{number}.png")
    return tmp_path / "photographs"


@pytest.mark.parametrize("kind", transfer_sets.DRAWN)
def test_images_are_of_the_teachers_shape_and_depend_on_the_stream_alone(kind, tiny_teacher):
    draw = transfer_sets.DRAWN[kind]
    first, again, other = (draw(tiny_teacher, draws(number)) for number in (0, 0, 1))

    assert first.shape == (3, 8, 8)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_has_the_moments_of_the_teachers_inputs(tiny_teacher):
    pixels = torch.stack([transfer_sets.noise(tiny_teacher, draws(k)) for k in range(100)])

    assert pixels.mean().item() == pytest.approx(0.5, abs=0.01)
    assert pixels.std().item() == pytest.approx(0.25, abs=0.01)


def test_fractal_images_are_smoother_than_white_ones(tiny_teacher):
    def roughness(draw):
        pixels = torch.stack([draw(tiny_teacher, draws(k)) for k in range(20)])
        return ((pixels[..., 1:] - pixels[..., :-1]).square().mean() / pixels.var()).item()

    # Neighbours in white noise are independent: the difference has twice the variance.
    assert roughness(transfer_sets.noise) == pytest.approx(2, abs=0.15)
    assert roughness(transfer_sets.fractal) < 1.5


def test_leaves_have_flat_areas_of_few_colors(tiny_teacher):
    pixels = transfer_sets.leaves(tiny_teacher, draws())
    colors = pixels.flatten(1).unique(dim=1).shape[1]

    assert 0 <= pixels.min() < pixels.max() <= 1
    assert 2 <= colors < 64, "as many colors as pixels: no leaf is larger than one"


def test_a_front_leaf_covers_those_behind_it(tiny_teacher, monkeypatch):
    monkeypatch.setattr(transfer_sets, "LEAST_RADIUS", 10.0)
    monkeypatch.setattr(transfer_sets, "MOST_RADIUS", 20.0)

    assert len(transfer_sets.leaves(tiny_teacher, draws()).flatten(1).unique(dim=1)[0]) == 1


def test_scenes_differ_in_contrast(tiny_teacher):
    """They would not if each had unit variance by itself."""
    pixels = torch.stack([transfer_sets.scenes(tiny_teacher, draws(k)) for k in range(40)])
    contrasts = pixels.flatten(1).std(1)

    assert (contrasts.max() / contrasts.min()).item() > 1.5
    assert pixels.std().item() == pytest.approx(0.25, abs=0.04)  # of the teacher's inputs


def test_more_images_begin_with_the_same(tiny_teacher, tmp_path):
    transfer_sets.draw_images("leaves", tiny_teacher, 2, 7, tmp_path / "few")
    transfer_sets.draw_images("leaves", tiny_teacher, 3, 7, tmp_path / "more")

    assert files(tmp_path / "more") == [f"images/{number:06d}.png" for number in range(3)]
    for name in files(tmp_path / "few"):
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


def test_a_teacher_of_two_channels_is_refused(tiny_teacher, tmp_path):
    spec = tiny_spec(image_shape=(2, 8, 8), mean=(0.5, 0.5), std=(0.25, 0.25))
    odd = Teacher(network=tiny_teacher.network, spec=spec)

    with pytest.raises(IncompatibleError, match="2 channels"):
        transfer_sets.draw_images("noise", odd, 1, 0, tmp_path / "out")


def test_a_balanced_choice_takes_as_many_of_each_class_as_there_are(photographs, tmp_path):
    for number, (num_images, cats) in enumerate([(4, 2), (8, 4), (12, 8)]):
        out = tmp_path / str(number)
        transfer_sets.choose_images(photographs, num_images, 0, out)
        assert len(list((out / "cat").iterdir())) == cats
        assert len(list(out.rglob("*.png"))) == num_images


def test_a_choice_is_without_repetition_and_depends_on_the_seed(photographs, tmp_path):
    def chosen(seed, out, **how):
        transfer_sets.choose_images(photographs, 6, seed, tmp_path / out, **how)
        return sorted(path.resolve() for path in (tmp_path / out).rglob("*.png"))

    first = chosen(0, "a")
    assert len(set(first)) == 6
    assert first == chosen(0, "b")
    assert first != chosen(1, "c")
    assert len(set(chosen(0, "d", balanced=False))) == 6


def test_too_few_photographs_are_said_so(photographs, tmp_path):
    with pytest.raises(InputFileError, match="14 images, expected 15; lower --n"):
        transfer_sets.choose_images(photographs, 15, 0, tmp_path / "out")


def test_drawn_sets_are_synthetic_and_chosen_ones_are_not(
    teacher_file, photographs, tmp_path, runner
):
    common = ["--teacher", str(teacher_file), "--n", "6", "--seed", "3", "--device", "cpu"]
    commands = {
        "noise": ["draw", "noise", *common],
        "real": ["choose", "--real", str(photographs), *common],
    }
    for name, words in commands.items():
        out = tmp_path / f"{name}.h5"
        result = runner.invoke(transfer_sets.main, [*words, "--out", str(out)])
        assert result.exit_code == 0, result.output
        found = DreamSet.open(out)
        assert found.num_images == 6
        assert found.manifest.provenance["synthetic"] is (name == "noise")
        assert found.manifest.provenance["source"] == name
        assert found.manifest.provenance["seed"] == 3
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert not left, "the folder of images is still there"

    again = runner.invoke(transfer_sets.main, [*commands["noise"], "--out", str(out)])
    assert again.exit_code == 2
    assert "is there already" in again.output
