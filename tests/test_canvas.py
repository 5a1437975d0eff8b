import pytest
import torch
from torch import Tensor

from dreamforge.canvas import Canvas, NaturalCanvas, PixelCanvas, make_canvas
from dreamforge.presets import PRESETS
from shared.seeding import generator

LOW, HIGH = torch.full((1, 3, 1, 1), -2.0), torch.full((1, 3, 1, 1), 2.0)


def noise(scale: float = 1.0, num_images: int = 4) -> Tensor:
    return scale * torch.randn(num_images, 3, 8, 8, generator=generator(0, "canvas"))


def step(canvas: Canvas, gradient: Tensor, rate: float) -> Tensor:
    canvas.parameters.sub_(rate * canvas.gradient(gradient))
    canvas.confine()
    return canvas.inputs()


@pytest.mark.parametrize("space", ["natural", "pixels"])
def test_a_canvas_shows_what_it_starts_with(space: str) -> None:
    start = noise(0.5).clamp(LOW, HIGH)

    assert torch.allclose(make_canvas(space, start, LOW, HIGH).inputs(), start, atol=1e-4)


@pytest.mark.parametrize("space", ["natural", "pixels"])
def test_inputs_stay_in_their_range(space: str) -> None:
    canvas = make_canvas(space, noise(5.0), LOW, HIGH)

    for inputs in (canvas.inputs(), step(canvas, -noise(9.0), 3.0)):
        assert inputs.min() >= -2
        assert inputs.max() <= 2
        assert inputs.is_contiguous()


@pytest.mark.parametrize("space", ["natural", "pixels"])
def test_steps_against_the_gradient_bring_inputs_to_a_target(space: str) -> None:
    target, canvas = noise(0.5).clamp(LOW, HIGH), make_canvas(space, noise(0.1), LOW, HIGH)
    before = (canvas.inputs() - target).square().mean()

    for _ in range(200):
        inputs = step(canvas, canvas.inputs() - target, 0.02)

    assert (inputs - target).square().mean() < 0.5 * before


def test_pixels_are_their_own_parameters() -> None:
    canvas = PixelCanvas(noise(), LOW, HIGH)
    gradient = noise().to(memory_format=torch.channels_last)

    assert canvas.inputs() is canvas.parameters
    assert torch.equal(canvas.gradient(gradient), gradient)
    assert canvas.gradient(gradient).is_contiguous()


def test_a_step_in_natural_space_moves_low_frequencies_most() -> None:
    canvas = NaturalCanvas(noise(0.1), LOW, HIGH)
    before = canvas.inputs()

    change = step(canvas, torch.randn(4, 3, 8, 8, generator=generator(1)), 0.1) - before
    power = torch.fft.rfft2(change).abs().square().mean((0, 1))

    assert power[0, 1] > 5 * power[0, 4]


def test_what_is_out_of_range_is_pulled_back_and_never_pushed_further() -> None:
    start = torch.zeros(2, 3, 8, 8)
    start[0] = 3.0  # beyond the highest pixel
    canvas = NaturalCanvas(start, LOW, HIGH)
    canvas.inputs()
    outward, inward = -torch.ones_like(start), torch.ones_like(start)

    assert torch.equal(canvas.gradient(outward)[0], torch.zeros(3, 8, 8))
    assert canvas.gradient(outward)[1].abs().max() > 0
    assert canvas.gradient(inward)[0].abs().max() > 0


def test_published_settings_move_pixels() -> None:
    assert {name for name, values in PRESETS.items() if values.get("space") != "pixels"} == {
        "default"
    }
