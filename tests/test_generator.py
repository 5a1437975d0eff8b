import pytest
import torch

from dreamforge.generator import (
    ImageGenerator,
    initial_generator,
    stage_sides,
    stage_widths,
)


def small(image_shape=(3, 8, 8), seed=0) -> ImageGenerator:
    return initial_generator(image_shape, 4, latent_size=6, width=4, seed=seed)


@pytest.mark.parametrize("image_shape", [(3, 8, 8), (1, 28, 28), (3, 32, 64), (4, 17, 9)])
def test_any_image_shape_comes_out_as_pixels(image_shape):
    network = small(image_shape)
    pixels = network(torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0]))

    assert pixels.shape == (5, *image_shape)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.std() > 0.05


def test_sides_double_from_about_eight_pixels_to_the_images():
    assert stage_sides(32, 32) == [(8, 8), (16, 16), (32, 32)]
    assert stage_sides(32, 64) == [(8, 16), (16, 32), (32, 64)]
    assert stage_sides(28, 28) == [(7, 7), (14, 14), (28, 28)]
    assert stage_sides(224, 224)[0] == (7, 7)
    assert stage_sides(8, 8) == [(4, 4), (8, 8)]
    assert stage_sides(1, 1) == [(1, 1), (1, 1)]


def test_stages_cost_the_same_until_they_would_be_too_wide():
    assert stage_widths(64, 3) == [128, 64, 32]
    assert stage_widths(64, 6) == [256, 256, 256, 128, 64, 32]
    assert stage_widths(2, 2) == [2, 1]


def test_weights_depend_on_the_arguments_alone_and_leave_the_global_stream():
    before = torch.get_rng_state()
    first, again, other = (small(seed=seed).state_dict() for seed in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["project.weight"], other["project.weight"])
    assert all(value.isfinite().all() for value in first.values())


def test_parameters_are_the_whole_state():
    network = small()

    assert not list(network.buffers())
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_every_weight_and_every_latent_has_a_gradient():
    network = small()
    latents = torch.randn(4, 6, requires_grad=True)
    network(latents, torch.arange(4)).square().sum().backward()

    assert latents.grad is not None
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_there_is_no_border():
    """Coarse maps moved to the side make the same image, moved; a frame would stay."""
    network = small((3, 16, 16))
    coarse = torch.randn(4, 4, 8, 8)
    pixels = network.pixels(network.stages(coarse))
    moved = network.pixels(network.stages(coarse.roll((1, -2), dims=(2, 3))))

    assert torch.allclose(moved, pixels.roll((2, -4), dims=(2, 3)), atol=1e-5)


def test_images_follow_both_latents_and_targets():
    network = small()
    latents = torch.randn(4, 6)
    pixels = network(latents, torch.tensor([0, 0, 1, 1]))
    other_class = network(latents, torch.tensor([0, 0, 1, 2]))

    assert not torch.equal(pixels[0], pixels[1])
    assert (pixels[3] - other_class[3]).abs().max() > 1e-3
