import torch

from dreamforge.noise import balanced_targets, initial_inputs, jitters, move
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
