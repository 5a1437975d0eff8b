import pytest
import torch

from dreamforge.bn_stats import BatchStats
from dreamforge.stream_stats import StreamStats

REMEMBERED = (torch.zeros(2), torch.ones(2))


def stats_of(values: torch.Tensor) -> list[BatchStats]:
    """The statistics of ``(N, 2)`` values, as if one BatchNorm had seen them."""
    return [BatchStats(values.mean(0), values.var(0, correction=0), *REMEMBERED)]


def batches(count: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(16, 2, generator=draws) * (i + 1) + 3 * i for i in range(count)]


def test_the_first_batch_is_the_whole_stream():
    (batch,) = batches(1)
    ((mean, var, *_),) = StreamStats().including(stats_of(batch), 0.9)

    assert torch.equal(mean, batch.mean(0))
    assert torch.equal(var, batch.var(0, correction=0))


def test_early_batches_are_averaged_as_if_they_had_been_one():
    """Also their variances: a mixture's is larger than the mean of its parts'."""
    parts = batches(4)
    stream = StreamStats()
    for part in parts[:-1]:
        stream = stream.after(stats_of(part), 0.99)
    ((mean, var, *remembered),) = stream.including(stats_of(parts[-1]), 0.99)
    whole = torch.cat(parts)

    assert torch.allclose(mean, whole.mean(0), atol=1e-5)
    assert torch.allclose(var, whole.var(0, correction=0), rtol=1e-5)
    assert remembered[0] is REMEMBERED[0]
    assert stream.num_batches == 3


def test_later_batches_weigh_one_minus_the_momentum():
    zeros, ones = torch.zeros(16, 2), torch.ones(16, 2)
    stream = StreamStats()
    for _ in range(20):
        stream = stream.after(stats_of(zeros), 0.75)
    ((mean, var, *_),) = stream.including(stats_of(ones), 0.75)

    assert mean.tolist() == [0.25, 0.25]
    assert var.tolist() == pytest.approx([0.25 * 0.75] * 2)  # of a coin


def test_without_momentum_only_the_batch_counts():
    first, second = batches(2)
    ((mean, var, *_),) = StreamStats().after(stats_of(first), 0.0).including(stats_of(second), 0.0)

    assert torch.equal(mean, second.mean(0))
    assert torch.allclose(var, second.var(0, correction=0))


def test_gradients_flow_into_the_batch_and_not_into_the_past():
    first, second = (part.requires_grad_() for part in batches(2))
    stream = StreamStats().after(stats_of(first), 0.9)
    ((mean, *_),) = stream.including(stats_of(second), 0.9)
    mean.sum().backward()

    assert first.grad is None
    assert second.grad is not None
    assert torch.allclose(second.grad, torch.full((16, 2), 0.5 / 16))
