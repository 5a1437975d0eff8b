import pytest
import torch
from torch import Tensor

from shared.augment import cutmix, cutmix_or_mixup, mixup, random_flip, random_shift
from shared.seeding import generator


def numbered(num_images: int, height: int, width: int) -> Tensor:
    """Images of which every pixel is different, as far as uint8 goes."""
    count = num_images * 3 * height * width
    return (torch.arange(count) % 251).to(torch.uint8).view(num_images, 3, height, width)


def test_each_image_is_flipped_or_not() -> None:
    images = numbered(64, 5, 6)

    flipped = random_flip(images, generator(0, "flip"))

    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48


@pytest.mark.parametrize("reflect", [False, True])
def test_a_shift_is_a_crop_of_the_padded_image(reflect: bool) -> None:
    images = numbered(40, 6, 7)

    shifted = random_shift(images, 2, generator(3, "shift"), reflect=reflect)

    down, right = torch.randint(0, 5, (2, 40), generator=generator(3, "shift"))
    mode = "reflect" if reflect else "constant"
    framed = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode=mode)
    for number in range(40):
        y, x = int(down[number]), int(right[number])
        assert torch.equal(shifted[number].float(), framed[number, :, y : y + 6, x : x + 7])
    assert shifted.dtype == torch.uint8
    assert len(torch.unique(down * 5 + right)) > 10  # samples move independently


def test_no_padding_is_a_copy() -> None:
    images = numbered(3, 4, 4)

    shifted = random_shift(images, 0, generator(0))

    assert torch.equal(shifted, images)
    assert shifted.data_ptr() != images.data_ptr()


def test_channels_last_images_shift_alike() -> None:
    images = numbered(9, 8, 8)
    other = images.contiguous(memory_format=torch.channels_last)

    expected = random_shift(images, 3, generator(1))

    assert torch.equal(random_shift(other, 3, generator(1)), expected)


def test_cutmix_pastes_one_box_of_a_partner() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 16, 16).clone()
    seen = set()
    for seed in range(20):
        mixed = cutmix(images, generator(seed, "cutmix"))
        changed = (mixed != images).any(1)  # (10, 16, 16)
        box = changed.any(0)
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows[:, None] & columns[None, :])  # one box for all
        for number in range(10):
            values = mixed[number][:, box]
            assert len(values.unique()) <= 1  # from a single partner
        inside = mixed[:, 0][:, box]
        if inside.numel():
            assert sorted(inside[:, 0].tolist()) == list(range(10))  # partners: a permutation
        seen.add(int(box.sum()))
    assert len(seen) > 5
    assert max(seen) > 64


def test_inputs_are_left_alone_and_draws_repeat() -> None:
    images = numbered(8, 8, 8)
    before = images.clone()
    for change in (
        lambda seed: random_flip(images, generator(seed)),
        lambda seed: random_shift(images, 2, generator(seed)),
        lambda seed: cutmix(images, generator(seed)),
    ):
        assert torch.equal(change(5), change(5))
        assert not torch.equal(change(5), change(6))
    assert torch.equal(images, before)


def test_mixup_blends_two_images_with_one_weight_each() -> None:
    """Constant images of value i: a blend is constant, too, and between its two parents."""
    values = torch.arange(0, 250, 10, dtype=torch.uint8)
    images = values[:, None, None, None].expand(-1, 3, 4, 4).contiguous()
    draws = generator(0, "mixup")
    partners = torch.randperm(len(images), generator=draws)
    share = torch.rand(len(images), generator=draws)
    mixed = mixup(images, generator(0, "mixup"))

    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed, mixed[:, :1, :1, :1].expand_as(mixed))
    expected = values * share + values[partners] * (1 - share)
    torch.testing.assert_close(mixed[:, 0, 0, 0].float(), expected, atol=0.51, rtol=0)


def test_both_mixes_take_every_other_image() -> None:
    images = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    draws = generator(3)
    pasted, blended = cutmix(images, draws), mixup(images, draws)
    mixed = cutmix_or_mixup(images, generator(3))

    assert torch.equal(mixed[0::2], pasted[0::2])
    assert torch.equal(mixed[1::2], blended[1::2])
