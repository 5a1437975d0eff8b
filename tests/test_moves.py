import pytest
import torch
import torch.nn.functional as F

from dreamforge.config import SynthesisConfig
from dreamforge.moves import (
    ASPECT_RATIO,
    Moves,
    crop,
    jitters,
    move,
    resized_crop,
    resized_windows,
)
from shared.errors import ConfigError
from shared.seeding import generator


def test_jitters_stay_in_range_and_can_be_switched_off():
    moves = jitters(200, 2, generator(0, "moves"), flip=True)

    assert {abs(value) for rows, columns, _ in moves for value in (rows, columns)} == {0, 1, 2}
    assert {flipped for *_, flipped in moves} == {0, 1}
    assert set(jitters(50, 0, generator(0), flip=False)) == {(0, 0, 0)}


def test_move_rolls_and_mirrors_by_whole_pixels():
    image = torch.arange(4.0).view(1, 1, 2, 2)

    assert move(image, 1, 0, 0).flatten().tolist() == [2, 3, 0, 1]
    assert move(image, 0, 0, 1).flatten().tolist() == [1, 0, 3, 2]
    assert torch.equal(move(image, 0, 0, 0), image)


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (4, 1, 6, 9)])
def test_a_crop_is_a_window_of_the_image_framed_in_black(shape):
    draws = generator(0, "crops")
    inputs = torch.randn(shape, generator=draws).requires_grad_()
    low = torch.tensor([-2.0, -1.5, -1.0][: shape[1]]).view(1, -1, 1, 1)
    offsets = torch.randint(0, 5, (2, shape[0]), generator=draws)
    crops = torch.cat([offsets, torch.arange(shape[0]).view(1, -1) % 2])

    windows = []
    for image, (row, column, mirrored) in zip(inputs, crops.T.tolist(), strict=True):
        framed = low[0].expand(-1, shape[2] + 4, shape[3] + 4).clone()
        framed[:, 2:-2, 2:-2] = image
        window = framed[:, row : row + shape[2], column : column + shape[3]]
        windows.append(window.flip(2) if mirrored else window)
    expected, cropped = torch.stack(windows), crop(inputs, crops, 2, low)
    weights = torch.randn(shape, generator=draws)
    gradients = [
        torch.autograd.grad((each * weights).sum(), inputs)[0] for each in (expected, cropped)
    ]

    assert torch.allclose(cropped, expected, atol=1e-6)
    assert torch.equal(*gradients)


def test_crops_move_every_image_by_itself_and_rolls_all_together():
    shades = torch.arange(1.0, 9.0).view(1, 1, 1, 8).expand(6, 1, 8, 8)
    black = torch.zeros(1, 1, 1, 1)

    def moved(kind):
        config = SynthesisConfig(num_images=6, steps=20, jitter=2, jitter_kind=kind)
        moves = Moves(config.resolve((1, 8, 8)), 6, black, generator(0, "moves"))
        return torch.stack([moves(shades, step) for step in range(20)])

    rolled, cropped = moved("roll"), moved("crop")

    assert all(torch.equal(step[0], image) for step in rolled for image in step)
    assert len({tuple(image[0, 4].tolist()) for image in cropped[0]}) > 1
    assert (rolled == 0).sum() == 0
    assert 0 < (cropped == 0).float().mean() < 0.4
    assert cropped[:, :, 0, 2:-2, 2:-2].amin() > 0  # black comes in by two pixels at most


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (4, 1, 6, 9)])
def test_resized_crops_are_those_of_pytorchs_sampler(shape):
    draws = generator(0, "windows")
    inputs = torch.randn(shape, generator=draws).requires_grad_()
    top, left, height, width = resized_windows(1, shape[0], 0.1, draws)[0]
    mirrored = (torch.arange(shape[0]) % 2).float()
    # Its coordinates go from -1 to 1; a negative scale mirrors.
    scale = width * (1 - 2 * mirrored)
    rows = [[scale, 0 * width, 2 * left + width - 1], [0 * width, height, 2 * top + height - 1]]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(shape), align_corners=False)
    expected = F.grid_sample(inputs, grid, padding_mode="border", align_corners=False)

    cropped = resized_crop(inputs, torch.stack([top, left, height, width, mirrored]))

    weights = torch.randn(shape, generator=draws)
    gradients = [
        torch.autograd.grad((each * weights).sum(), inputs)[0] for each in (expected, cropped)
    ]
    torch.testing.assert_close(cropped, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_the_whole_image_is_a_crop_that_changes_nothing():
    inputs = torch.randn(3, 2, 7, 5, generator=generator(0, "whole"))
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(4, 1).expand(4, 3)
    seen, mirrored = (
        resized_crop(inputs, torch.cat([whole, torch.full((1, 3), flag)])) for flag in (0.0, 1.0)
    )

    torch.testing.assert_close(seen, inputs, atol=1e-6, rtol=0)
    torch.testing.assert_close(mirrored, inputs.flip(3), atol=1e-6, rtol=0)


def test_windows_lie_in_the_image_and_are_as_large_as_asked_for():
    top, left, height, width = resized_windows(40, 50, 0.3, generator(0, "windows")).unbind(1)

    for start, length in ((top, height), (left, width)):
        assert start.min() >= 0
        assert (start + length).max() <= 1 + 1e-6
    uncut = (height < 1) & (width < 1)
    area, ratio = (height * width)[uncut], (width / height)[uncut]
    assert 0.3 - 1e-6 <= area.min() < 0.35
    assert area.max() > 0.8
    assert 1 / ASPECT_RATIO - 1e-6 <= ratio.min() < 0.8
    assert 1.25 < ratio.max() <= ASPECT_RATIO + 1e-6
    assert abs((top / (1 - height).clamp(min=1e-9))[uncut].mean().item() - 0.5) < 0.03


def test_every_image_has_windows_of_its_own_and_the_same_again():
    config = SynthesisConfig(num_images=4, steps=3, jitter_kind="resized-crop")
    images = torch.randn(1, 3, 16, 16, generator=generator(0, "image")).expand(4, 3, 16, 16)
    first, again = (
        Moves(config.resolve((3, 16, 16)), 4, torch.zeros(1, 3, 1, 1), generator(0, "moves"))
        for _ in range(2)
    )

    seen = [first(images, step) for step in range(3)]

    assert all(torch.equal(again(images, step), seen[step]) for step in range(3))
    different = [image for step in seen for image in step]
    assert len({tuple(image.flatten().tolist()) for image in different}) == 12


@pytest.mark.parametrize(
    ("side", "options", "kind", "jitter", "area"),
    [
        (8, {}, "crop", 1, None),
        (32, {}, "crop", 4, None),
        (64, {}, "crop", 8, None),
        (224, {}, "resized-crop", 0, 0.25),
        (224, {"crop_area": 0.5}, "resized-crop", 0, 0.5),
        (224, {"jitter": 30}, "roll", 30, None),
        (224, {"jitter_kind": "roll"}, "roll", 14, None),
        (32, {"jitter_kind": "resized-crop"}, "resized-crop", 0, 0.25),
        (224, {"method": "generator"}, None, 14, None),
        (32, {"method": "generator"}, None, 2, None),
    ],
)
def test_small_images_are_cropped_by_default_and_large_ones_magnified(
    side, options, kind, jitter, area
):
    config = SynthesisConfig(num_images=4, **options).resolve((3, side, side))

    assert (config.jitter_kind, config.jitter, config.crop_area) == (kind, jitter, area)
    assert config.resolve((3, side, side)) == config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jitter_kind": "resized-crop", "jitter": 3}, "takes --crop-area instead"),
        ({"jitter_kind": "roll", "crop_area": 0.5}, "found --jitter-kind roll"),
        ({"crop_area": 0.5}, "found --jitter-kind crop"),  # of images of 32 pixels
        ({"crop_area": 1.5}, "--crop-area"),
        ({"crop_area": 0.5, "method": "generator"}, "--crop-area: found 0.5 with --method gen"),
    ],
)
def test_options_that_the_moves_do_not_look_at_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        SynthesisConfig(num_images=4, **options).resolve((3, 32, 32))
