import pytest
import torch

from dreamforge.config import SynthesisConfig
from dreamforge.noise import (
    balanced_targets,
    initial_inputs,
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
