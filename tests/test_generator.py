import pytest
import torch

from dreamforge.generator import (
    ImageGenerator,
    initial_generator,
    initial_latents,
    stage_sides,
    stage_widths,
)


def small(image_shape=(3, 8, 8), seed=0) -> ImageGenerator:
    return initial_generator(image_shape, latent_size=6, width=4, seed=seed)


@pytest.mark.parametrize("image_shape", [(3, 8, 8), (1, 28, 28), (3, 32, 64), (4, 17, 9)])
def test_any_image_shape_comes_out_as_pixels(image_shape):
    network = small(image_shape)
    pixels = network(torch.randn(5, 6))

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
    network(latents).square().sum().backward()

    assert latents.grad is not None
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_there_is_no_border():
    """Coarse maps moved to the side make the same image, moved; a frame would stay."""
    network = small((3, 16, 16))
    coarse = torch.randn(4, 4, 8, 8)
    pixels = network.pixels(network.stages(coarse))
    moved = network.pixels(network.stages(coarse.roll((1, -2), dims=(2, 3))))

    assert torch.allclose(moved, pixels.roll((2, -4), dims=(2, 3)), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_latents_of_one_class_share_what_they_are_asked_to(share):
    """Correlation within a class is the share, between classes nothing, the variance 1."""
    targets = torch.tensor([0, 0, 1])
    latents = initial_latents(targets, 2, 50_000, share, torch.Generator().manual_seed(0))
    first, second, other = latents

    assert latents.var(dim=1).tolist() == pytest.approx([1.0] * 3, abs=0.03)
    assert (first * second).mean().item() == pytest.approx(share, abs=0.03)
    assert (first * other).mean().item() == pytest.approx(0.0, abs=0.03)


def test_what_a_class_shares_is_another_in_every_batch():
    targets = torch.tensor([0, 0])
    batches = [
        initial_latents(targets, 1, 8, 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]

    assert torch.equal(batches[0][0], batches[0][1])
    assert not torch.equal(batches[0][0], batches[1][0])
