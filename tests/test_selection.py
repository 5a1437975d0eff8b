import math

import pytest
import torch
from conftest import blobs

from recover.selection import MOST_VARIANTS, NUM_VARIED, likeness, overlap, varied


def log(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is these probabilities."""
    return torch.tensor(rows).log()


def test_the_overlap_is_what_both_answers_share():
    teacher = log([0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    student = log([0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.6, 0.3, 0.1])

    assert overlap(student, teacher).tolist() == pytest.approx([0.7, 0.0, 0.6])
    assert torch.equal(overlap(student, teacher), overlap(teacher, student))


def test_equal_answers_are_as_alike_as_can_be():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))

    # A softmax does not change when all logits of an image grow by the same.
    found = likeness(logits + 3, logits, num_dreams=20)

    assert (found.agreement_on_varied, found.divergence) == (1.0, 0.0)
    assert (found.score, found.score_error) == (1.0, 0.0)


def test_likeness_by_hand():
    teacher, student = log([0.5, 0.5], [0.9, 0.1]), log([0.9, 0.1], [0.9, 0.1])

    found = likeness(student, teacher, num_dreams=2)

    assert found.score == pytest.approx((0.6 + 1) / 2)
    assert found.divergence == pytest.approx(0.5 * 0.5 * math.log(25 / 9), abs=1e-6)
    # Deviation 0.2 of two values, over the root of two.
    assert found.score_error == pytest.approx(0.2 / math.sqrt(2), abs=1e-6)


def test_variants_of_one_dream_count_as_one_image():
    teacher, student = log(*[[0.5, 0.5]] * 8), log(*[[0.9, 0.1], [0.5, 0.5]] * 4)

    errors = [likeness(student, teacher, num_dreams=n).score_error for n in (1, 4, 8, 100)]

    assert errors == pytest.approx([0.2, 0.1, 0.2 / 8**0.5, 0.2 / 8**0.5], abs=1e-6)


def test_answers_that_are_no_numbers_have_no_score():
    found = likeness(torch.full((3, 2), math.nan), torch.zeros(3, 2), num_dreams=3)

    assert found.score is found.divergence is found.score_error is None


@pytest.mark.parametrize("num_images", [1, 12, 127, 128, 200, 1024, 1500])
def test_every_image_is_varied_about_equally_often(num_images: int):
    # Every image has one value of its own that no flip, shift of 0 pixels or box of others hides.
    values = torch.arange(num_images, dtype=torch.uint8)
    images = values[:, None, None, None].expand(-1, 3, 4, 4).contiguous()

    found = varied(images)

    assert found.dtype == torch.uint8
    assert found.shape == (min(NUM_VARIED, MOST_VARIANTS * num_images), 3, 4, 4)
    if num_images in (12, 127, 128, 200):
        counts = found[:, 0].flatten().bincount(minlength=num_images).float()
        assert counts.min() > 0
        assert counts.sum() == found[:, 0].numel()


def test_variants_are_the_same_every_time_and_none_of_none():
    images, _ = blobs(30)

    assert torch.equal(varied(images), varied(images))
    assert not torch.equal(varied(images)[:30], images)
    assert len(varied(images[:0])) == 0
