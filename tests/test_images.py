import torch

from shared.images import to_images, to_pixels


def test_every_level_survives_the_round_trip_exactly():
    levels = torch.arange(256, dtype=torch.uint8)

    assert torch.equal(to_images(to_pixels(levels)), levels)


def test_pixels_are_clamped_and_rounded():
    pixels = torch.tensor([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 7.0])

    assert to_images(pixels).tolist() == [0, 0, 0, 1, 255, 255]
    assert to_pixels(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]


def test_the_callers_pixels_are_not_touched():
    pixels = torch.full((3,), 0.5)
    to_images(pixels)

    assert pixels.tolist() == [0.5] * 3
