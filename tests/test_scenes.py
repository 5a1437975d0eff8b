import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.natural import natural_noise
from shared.scenes import CONTRAST_SPREAD, draw_scenes
from shared.seeding import generator


def gradient(images: Tensor, scale: int, axis: int) -> Tensor:
    """Return by image the logarithm of the mean step along an axis, seen from ``scale`` away."""
    return F.avg_pool2d(images, scale).diff(dim=axis).abs().mean((1, 2, 3)).log()


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return draw_scenes(600, (3, 32, 32), generator(0, "scenes"))


def test_scenes_have_unit_variance_and_little_color(scenes: Tensor) -> None:
    centered = scenes - scenes.mean((0, 2, 3), keepdim=True)
    color = centered - centered.mean(1, keepdim=True)

    assert scenes.dtype == torch.float32
    assert float(scenes.std(correction=0)) == pytest.approx(1, rel=1e-4)
    assert float(scenes.mean()) == pytest.approx(0, abs=0.1)
    assert 0.05 < float(color.square().mean() / centered.square().mean()) < 0.2


def test_scenes_differ_in_roughness_and_grain_where_noise_of_one_kind_does_not(
    scenes: Tensor,
) -> None:
    noise = natural_noise(600, (3, 32, 32), generator(0, "scenes"))

    def roughness(images: Tensor) -> float:
        return float((gradient(images, 1, 3) - gradient(images, 2, 3)).std())

    def grain(images: Tensor) -> float:
        return float((gradient(images, 1, 3) - gradient(images, 1, 2)).std())

    assert roughness(scenes) > 3 * roughness(noise)
    assert grain(scenes) > 3 * grain(noise)


def test_scenes_have_edges_and_flat_places(scenes: Tensor) -> None:
    def tailedness(images: Tensor) -> float:
        steps = images.diff(dim=3).flatten(1)
        return float((steps.pow(4).mean(1) / steps.square().mean(1).square()).median())

    noise = natural_noise(600, (3, 32, 32), generator(0, "scenes"))

    # A normal distribution has 3.
    assert tailedness(noise) == pytest.approx(3, abs=0.3)
    assert tailedness(scenes) > 5


def test_brightness_and_contrast_vary_between_scenes(scenes: Tensor) -> None:
    means = scenes.mean((1, 2, 3))
    contrast = (scenes - scenes.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt().log()

    assert 0.15 < float(means.var()) < 0.6
    assert CONTRAST_SPREAD < float(contrast.std()) < 0.6


def test_a_generator_decides_and_every_image_is_another() -> None:
    first, again, other = (
        draw_scenes(3, (3, 16, 16), generator(seed, "scenes")) for seed in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first[0] - first[1]).abs().mean() > 0.1


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 16, 16), (3, 7, 12), (3, 40, 24)])
def test_any_channels_and_sides_will_do(shape: tuple[int, int, int]) -> None:
    scenes = draw_scenes(4, shape, generator(0, "scenes"))

    assert scenes.shape == (4, *shape)
    assert scenes.isfinite().all()


def test_one_image_alone_is_finite() -> None:
    assert draw_scenes(1, (1, 1, 1), generator(0, "scenes")).isfinite().all()
