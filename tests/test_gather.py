import pytest
import torch

from shared import gather
from shared.gather import empty_images, gather_rows

IMAGES = torch.arange(7 * 2 * 3 * 5, dtype=torch.uint8).view(7, 2, 3, 5)


@pytest.fixture(params=[1, 2, 5], ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(gather, "THREAD_BYTES", 30)  # one image
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    "rows", [[3], [0, 1, 2, 3, 4, 5, 6], [6, 0, 3, 3, 3, 0], [5, 4, 2, 1, 6] * 9, []], ids=str
)
def test_rows_come_in_the_order_asked(threads: int, rows: list[int]) -> None:
    found = gather_rows(IMAGES, torch.tensor(rows, dtype=torch.int64))

    assert found.dtype == torch.uint8
    assert found.shape == (len(rows), 2, 3, 5)
    assert [image.tolist() for image in found] == [IMAGES[row].tolist() for row in rows]


@pytest.mark.parametrize("rows", [[7], [0, -1], [2**40, 0], [-(2**63)]])
def test_rows_that_are_not_there_are_refused(threads: int, rows: list[int]) -> None:
    with pytest.raises(IndexError, match="rows outside 0 to 6"):
        gather_rows(IMAGES, torch.tensor(rows))


def test_rows_are_whole_numbers() -> None:
    with pytest.raises(TypeError):
        gather_rows(IMAGES, torch.tensor([1.5]))
    assert torch.equal(gather_rows(IMAGES, torch.tensor([2], dtype=torch.int32)), IMAGES[2:3])


def test_the_result_is_a_copy() -> None:
    images = IMAGES.clone()
    gather_rows(images, torch.tensor([1])).zero_()

    assert torch.equal(images, IMAGES)


def test_a_thread_that_fails_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "THREAD_BYTES", 30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    original = gather._take

    def fail_at_row_6(source: object, wanted: object, out: object) -> None:
        if 6 in wanted:
            raise MemoryError("none left")
        original(source, wanted, out)

    monkeypatch.setattr(gather, "_take", fail_at_row_6)
    with pytest.raises(MemoryError):
        gather_rows(IMAGES, torch.tensor([0, 1, 2, 6]))


def test_new_images_are_writable_and_contiguous() -> None:
    images = empty_images(3, (2, 4, 4))
    images.fill_(7)

    assert images.is_contiguous()
    assert images.sum() == 7 * 96
