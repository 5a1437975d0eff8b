"""Accuracy, agreement and prediction against answers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from shared.errors import CheckpointError
from shared.metrics import (
    accuracy,
    agreement,
    default_batch_size,
    known_accuracy,
    mean_auroc,
    predict,
    require_finite,
)
from shared.spec import TeacherSpec

CPU = torch.device("cpu")
SPEC = TeacherSpec(
    architecture="sum",
    num_classes=2,
    image_shape=(1, 2, 2),
    mean=(0.2,),
    std=(0.4,),
    fingerprint="0" * 64,
)


class ChannelMean(nn.Module):
    """Logits: the mean input and its negative; remembers the modes and sizes of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, int, torch.dtype]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append((self.training, len(inputs), inputs.dtype))
        mean = inputs.mean((1, 2, 3))
        return torch.stack([mean, -mean], dim=1)


def test_accuracy_is_the_fraction_of_rows_won_by_the_label() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [0.0, 5.0]])

    assert accuracy(logits, torch.tensor([0, 1, 1, 1])) == 0.75
    assert math.isnan(accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))


def test_what_goes_into_a_record_is_no_nan() -> None:
    unknown = torch.full((3, 2), -1, dtype=torch.int8)

    assert known_accuracy(torch.zeros(3, 3), unknown) is None
    assert mean_auroc(torch.zeros(3, 3), unknown) is None
    assert known_accuracy(torch.eye(2), torch.tensor([0, 0])) == 0.5


def test_agreement_compares_winners_only_and_is_symmetric() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])
    b = torch.tensor([[9.0, 8.0], [1.0, 0.0], [0.1, 0.0]])

    assert agreement(a, b) == agreement(b, a) == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_answers_that_are_no_numbers_are_compared_with_nothing(value: float) -> None:
    logits = torch.tensor([[1.0, 0.0], [value, 1.0]])
    assert agreement(logits * math.nan, logits * math.nan) == 1.0  # which is why

    with pytest.raises(CheckpointError, match=r"x: answers with NaN or infinity.*mean, std"):
        require_finite(logits, "x")
    assert require_finite(logits[:1], "x") is not logits


def test_predict_normalizes_and_splits_into_batches_in_evaluation_mode() -> None:
    network = ChannelMean().train()
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = predict(network, images, SPEC, CPU, batch_size=2)

    torch.testing.assert_close(logits[:, 0], torch.tensor([-0.5, 0.0, 2.0]))
    assert network.calls == [(False, 2, torch.float32), (False, 1, torch.float32)]
    assert network.training
    assert not logits.requires_grad


def test_predicting_nothing_gives_no_rows() -> None:
    images = torch.zeros(0, 1, 2, 2, dtype=torch.uint8)

    assert predict(ChannelMean(), images, SPEC, CPU).shape == (0, 2)


def test_default_batches_shrink_with_the_images() -> None:
    assert default_batch_size(torch.zeros(1, 3, 32, 32)) == 1024
    assert default_batch_size(torch.zeros(1, 3, 224, 224)) == 111
    assert default_batch_size(torch.empty(1, 3, 9000, 9000, device="meta")) == 1
