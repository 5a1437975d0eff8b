import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from dream_statistics import BANDS, Variation, band_powers, overall, spectrum, variations

from shared.natural import BETWEEN_IMAGES, CHROMA, CONTRAST_SPREAD, natural_noise
from shared.seeding import generator
from shared.teacher import Teacher


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, "statistics"))


def test_the_bands_add_up_to_the_mean_square() -> None:
    planes = noise(5, 2, 16, 16)

    assert sum(band_powers(planes)) == pytest.approx(
        float(planes.square().mean((0, 2, 3)).sum()), rel=1e-4
    )


def test_a_wave_is_in_its_band_alone() -> None:
    wave = torch.sin(torch.arange(32) * 2 * torch.pi / 8).expand(1, 1, 32, 32)  # 0.125 per pixel
    powers = band_powers(wave)

    assert powers[BANDS.index(0.07)] == pytest.approx(0.5, rel=1e-4)
    assert sum(powers) == pytest.approx(0.5, rel=1e-4)


def test_brightness_and_color_share_the_mean_square() -> None:
    inputs = noise(40, 3, 8, 8)
    brightness, color = spectrum(inputs)
    centered = inputs - inputs.mean((0, 2, 3), keepdim=True)

    assert sum(brightness) + sum(color) == pytest.approx(float(centered.square().mean()), rel=1e-4)
    assert sum(spectrum(inputs[:, :1].expand(-1, 3, -1, -1))[1]) == pytest.approx(0, abs=1e-6)


def test_natural_noise_shows_the_shares_that_it_was_made_with() -> None:
    between, color, contrast = overall(natural_noise(4000, (3, 16, 16), generator(0, "noise")))

    assert between == pytest.approx(BETWEEN_IMAGES, rel=0.1)
    assert color == pytest.approx(CHROMA, rel=0.1)
    assert contrast == pytest.approx(CONTRAST_SPREAD, rel=0.15)


def test_even_images_differ_between_and_not_within(tiny_teacher: Teacher) -> None:
    shades = torch.arange(0, 256, 8, dtype=torch.uint8).view(-1, 1, 1, 1)
    even = shades.expand(-1, *tiny_teacher.spec.image_shape).contiguous()
    one = noise(1, *tiny_teacher.spec.image_shape).mul(60).add(128).clamp(0, 255).to(torch.uint8)

    first = next(iter(variations(tiny_teacher, even).values())).share
    same = variations(tiny_teacher, one.expand(8, -1, -1, -1).contiguous())

    assert first > 0.5  # borders of zero padding are all that varies within
    assert max(one.share for one in same.values()) == pytest.approx(0, abs=1e-4)


def test_independent_channels_of_one_variance_are_as_many_dimensions() -> None:
    even = Variation(means=noise(20000, 6), share=0.0)
    single = Variation(means=noise(500, 1) * torch.arange(1.0, 7.0), share=0.0)

    assert even.dimensions == pytest.approx(6, rel=0.01)
    assert single.dimensions == pytest.approx(1, rel=1e-4)


def test_the_distance_between_two_variations_is_that_of_their_gaussians() -> None:
    values = noise(20000, 3)
    values = (values - values.mean(0)) @ torch.linalg.inv(
        torch.linalg.cholesky(torch.cov(values.T))
    ).T
    whole, double = Variation(means=values, share=0.0), Variation(means=2 * values + 1, share=0.0)

    # Both have a ridge of a hundredth, which a factor leaves in proportion: 1.01 I and 4.04 I.
    expected = 0.5 * (4 + 1 / 1.01 - 1 - torch.tensor(4.0).log())
    assert double.divergence(whole) == pytest.approx(float(expected), rel=1e-3)
    assert whole.divergence(whole) == pytest.approx(0, abs=1e-9)
