import pytest
import torch
from torch import Tensor

from shared.natural import (
    BETWEEN_IMAGES,
    CHROMA,
    CONTRAST_SPREAD,
    NaturalBasis,
    natural_noise,
)
from shared.seeding import generator

CPU = torch.device("cpu")
SHAPES = [(3, 32, 32), (1, 8, 8), (3, 9, 14), (4, 5, 5), (3, 1, 6)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "natural"))


@pytest.mark.parametrize("shape", SHAPES)
def test_coefficients_and_inputs_are_inverse_to_each_other(shape: tuple[int, int, int]) -> None:
    basis, coefficients = NaturalBasis(shape, CPU), normal(4, *shape)

    inputs = basis.inputs(coefficients)

    assert inputs.shape == (4, *shape)
    assert torch.allclose(basis.coefficients(inputs), coefficients, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_the_adjoint(shape: tuple[int, int, int]) -> None:
    basis, coefficients, cotangent = NaturalBasis(shape, CPU), normal(4, *shape), normal(4, *shape)

    given = (basis.inputs(coefficients).double() * cotangent.double()).sum()
    taken = (coefficients.double() * basis.gradient(cotangent).double()).sum()

    assert float(taken) == pytest.approx(float(given), rel=1e-4, abs=1e-4)


def test_the_gradient_is_that_of_autograd() -> None:
    basis, cotangent = NaturalBasis((3, 6, 6), CPU), normal(2, 3, 6, 6, seed=1)
    coefficients = normal(2, 3, 6, 6).requires_grad_()

    basis.inputs(coefficients).backward(cotangent)

    assert coefficients.grad is not None
    assert torch.allclose(basis.gradient(cotangent), coefficients.grad, atol=1e-5)


def test_one_coefficient_is_one_wave_or_one_even_image() -> None:
    basis, coefficients = NaturalBasis((1, 8, 8), CPU), torch.zeros(2, 1, 8, 8)
    coefficients[0, 0, 0, 0] = coefficients[1, 0, 0, 3] = 1

    even, wave = basis.inputs(coefficients)

    assert even.std() < 1e-6
    assert float(even.mean()) == pytest.approx(BETWEEN_IMAGES**0.5, rel=1e-4)
    assert torch.allclose(wave, wave[:, :1].expand_as(wave), atol=1e-6)  # rows alike
    signs = wave[0, 0].sign()
    assert int((signs[1:] != signs[:-1]).sum()) == 3  # half waves


def test_independent_coefficients_make_pixels_of_variance_1_with_the_shares_promised() -> None:
    inputs = NaturalBasis((3, 16, 16), CPU).inputs(normal(3000, 3, 16, 16))

    luma = inputs.mean(1, keepdim=True)
    assert float(inputs.square().mean()) == pytest.approx(1, rel=0.02)
    assert float((inputs - luma).square().mean()) == pytest.approx(CHROMA, rel=0.03)
    assert float(inputs.mean((2, 3)).square().mean()) == pytest.approx(BETWEEN_IMAGES, rel=0.05)


def test_power_falls_with_the_square_of_the_frequency() -> None:
    inputs = NaturalBasis((1, 32, 32), CPU).inputs(normal(3000, 1, 32, 32))
    power = torch.fft.rfft2(inputs).abs().square().mean((0, 1))

    assert 13 < float(power[0, 2] / power[0, 8]) < 19


def test_noise_has_unit_variance_and_images_that_differ_in_contrast() -> None:
    noise = natural_noise(6000, (3, 8, 8), generator(0, "noise"))
    within = noise - noise.mean((2, 3), keepdim=True)
    log_contrast = within.square().mean((1, 2, 3)).sqrt().log()

    assert float(noise.square().mean()) == pytest.approx(1, rel=0.05)
    assert float(log_contrast.std()) >= CONTRAST_SPREAD


def test_noise_is_that_of_its_draws() -> None:
    noise = [natural_noise(2, (3, 4, 4), generator(seed, "noise")) for seed in (0, 0, 1)]

    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
