"""BatchNorm over processes: what one process computes from the whole batch is the reference."""

import copy

import pytest
import torch
from conftest import IMAGE_SHAPE
from thread_group import together
from torch import Tensor, nn

from recover.whole_batch import whole_batch_statistics
from shared.distributed import ALONE, Group


class ActivatedNorm(nn.BatchNorm2d):
    """As in timm: a BatchNorm that does more than normalise."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


class DirectNorm(nn.BatchNorm2d):
    """It calls the function below torch.nn.functional, which has another order of arguments."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert self.running_mean is not None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return torch.batch_norm(
            2 * inputs,
            *(self.weight, self.bias, self.running_mean, self.running_var),
            *(self.training, 0.2, self.eps, False),
        )


def network(norm: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.Flatten(), nn.LazyLinear(2)).double()
        body(torch.zeros(2, *IMAGE_SHAPE, dtype=torch.float64))
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
    norm.reset_running_stats()  # type: ignore[operator]
    return body


def batch(num_images: int) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(num_images, *IMAGE_SHAPE, generator=draws, dtype=torch.float64) + 3


def gradients_and_buffers(
    body: nn.Module, inputs: Tensor, group: Group
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the inputs of a sum over rows; gradients of weights, and buffers."""
    inputs = inputs.clone().requires_grad_()
    with whole_batch_statistics(group):
        outputs = body(inputs)
    outputs.square().sum().backward()
    group.add_up([weight.grad for weight in body.parameters() if weight.grad is not None])
    assert inputs.grad is not None
    weights = [weight.grad for weight in body.parameters() if weight.grad is not None]
    return inputs.grad, [*weights, *body.buffers()]


@pytest.mark.parametrize("sizes", [(6, 2), (7, 3), (3, 3)])  # the last ones: parts of one image
@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(5, affine=False),
        nn.BatchNorm2d(5, momentum=None),
        nn.BatchNorm2d(5, track_running_stats=False),
        ActivatedNorm(5),
        DirectNorm(5),
    ],
    ids=["plain", "no scale", "cumulative", "no memory", "with activation", "direct"],
)
def test_parts_have_the_statistics_and_gradients_of_the_whole(
    norm: nn.Module, sizes: tuple[int, int]
) -> None:
    num_images, count = sizes
    whole, body = batch(num_images), network(copy.deepcopy(norm))
    expected_inputs, expected = gradients_and_buffers(copy.deepcopy(body), whole, ALONE)

    results = together(
        count, lambda group: gradients_and_buffers(copy.deepcopy(body), group.part(whole), group)
    )

    for index, (of_inputs, rest) in enumerate(results):
        torch.testing.assert_close(of_inputs, expected_inputs[index::count])
        torch.testing.assert_close(rest, expected)
        assert all(map(torch.equal, rest, results[0][1]))  # the same bits everywhere


def test_a_large_mean_does_not_drown_the_variance() -> None:
    inputs = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + 1000
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        expected = copy.deepcopy(norm)(inputs)

    def outputs(group: Group) -> Tensor:
        with torch.no_grad(), whole_batch_statistics(group):
            return copy.deepcopy(norm)(group.part(inputs))

    for index, found in enumerate(together(2, outputs)):
        torch.testing.assert_close(found, expected[index::2], rtol=0, atol=1e-3)


def test_evaluation_mode_is_left_alone() -> None:
    norm = nn.BatchNorm2d(3).eval()

    def must_not_talk(group: Group) -> Tensor:
        with whole_batch_statistics(group):
            return norm(torch.ones(1, *IMAGE_SHAPE))

    silent = Group(index=0, count=2)  # would need a process group to talk
    torch.testing.assert_close(
        must_not_talk(silent), torch.ones(1, *IMAGE_SHAPE) / (1 + 1e-5) ** 0.5
    )


def test_alone_nothing_intervenes() -> None:
    inputs = torch.randn(4, 3, 2, 2)
    norm = nn.BatchNorm2d(3)

    with whole_batch_statistics(ALONE):
        found = norm(inputs)

    assert found.grad_fn is not None
    assert found.grad_fn.name() == copy.deepcopy(norm)(inputs).grad_fn.name()
