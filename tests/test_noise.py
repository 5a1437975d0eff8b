import pytest
import torch

from dreamforge.config import SynthesisConfig
from dreamforge.noise import (
    Moves,
    balanced_targets,
    crop,
    initial_inputs,
    jitters,
    move,
    soften,
)
from shared.seeding import generator


def test_targets_are_balanced_over_the_set_wherever_batches_begin_and_end():
    whole = balanced_targets(10, 3, 0, 1003)
    counts = torch.bincount(whole, minlength=10)
    pieces = [balanced_targets(10, 3, a, b) for a, b in [(0, 7), (7, 256), (256, 1003)]]

    assert counts.max() - counts.min() <= 1
    assert torch.equal(torch.cat(pieces), whole)


def test_targets_of_many_classes_are_a_mixture_not_a_run():
    targets = balanced_targets(1000, 0, 0, 64)

    assert targets.unique().numel() == 64
    assert not torch.equal(targets, targets.sort().values)


def test_pink_noise_has_the_spectrum_of_natural_images():
    pink = initial_inputs("pink", 64, (3, 32, 32), generator(0, "noise"))
    power = torch.fft.rfft2(pink).abs().square().mean(dim=(0, 1))

    # Power falls with the square of the frequency: 16 times from 2 to 8 cycles per image.
    assert 12 < (power[0, 2] / power[0, 8]).item() < 21
    assert abs(pink.std().item() - 1) < 1e-3
    assert pink.mean(dim=(2, 3)).abs().max() < 1e-5


def test_white_noise_has_unit_variance_and_a_flat_spectrum():
    white = initial_inputs("white", 64, (3, 16, 16), generator(0, "noise"))
    power = torch.fft.rfft2(white).abs().square().mean(dim=(0, 1))

    assert abs(white.std().item() - 1) < 0.02
    assert 0.7 < (power[0, 2] / power[0, 6]).item() < 1.4


def test_odd_and_non_square_sizes_are_fine():
    assert initial_inputs("pink", 2, (1, 7, 12), generator(0)).shape == (2, 1, 7, 12)


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


def test_hard_targets_stay_as_they_are():
    targets = balanced_targets(5, 0, 0, 7)

    assert soften(SynthesisConfig(), targets, 5, 0) is targets


def test_soft_targets_spread_their_share_evenly():
    config = SynthesisConfig(targets="soft", target_smoothing=0.2)
    found = soften(config, torch.tensor([1]), 4, 0)

    assert found.tolist() == [pytest.approx([0.05, 0.85, 0.05, 0.05])]


def test_pairs_are_two_classes_of_which_the_target_is_the_larger_part():
    config, targets = SynthesisConfig(targets="pairs"), balanced_targets(5, 0, 0, 2000)
    found = soften(config, targets, 5, 0)
    top = found.topk(2, dim=1)

    assert torch.equal(found.argmax(1), targets)
    assert torch.allclose(found.sum(1), torch.ones(2000))
    assert found.topk(3, dim=1).values[:, 2].abs().max() == 0
    # Uniform in (1/2, 1]: mean 3/4; every other class equally often.
    assert top.values[:, 0].min() > 0.5
    assert top.values[:, 0].mean().item() == pytest.approx(0.75, abs=0.02)
    partners = torch.bincount((top.indices[:, 1] - targets) % 5, minlength=5)
    assert partners[0] == 0
    assert partners[1:].min() > 400


def test_pairs_of_a_batch_are_its_own_and_always_the_same():
    config, targets = SynthesisConfig(targets="pairs"), torch.arange(4)
    first, again, other = (soften(config, targets, 4, batch) for batch in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


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


@pytest.mark.parametrize(
    ("side", "kind", "jitter"),
    [(8, "crop", 1), (32, "crop", 4), (64, "crop", 8), (224, "roll", 14)],
)
def test_small_images_are_cropped_by_default_and_large_ones_rolled(side, kind, jitter):
    config = SynthesisConfig(num_images=4).resolve((3, side, side))

    assert (config.jitter_kind, config.jitter) == (kind, jitter)


def test_a_generator_has_no_choice_of_moves():
    config = SynthesisConfig(num_images=4, method="generator").resolve((3, 32, 32))

    assert (config.jitter_kind, config.jitter) == (None, 2)
