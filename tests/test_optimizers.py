"""The steps of ``torch.optim``, to the bit, without what its classes import."""

from typing import Any

import pytest
import torch
from torch import Tensor

from shared import optimizers


def moved_by(kind: Any, groups: list[dict[str, Any]], **usual: Any) -> list[Tensor]:
    """Minimise a quartic for some steps, the rate falling, one tensor without a gradient at times.

    Returns what is left of copies of the groups' tensors.
    """
    copies = [
        {**group, "params": [tensor.clone().requires_grad_() for tensor in group["params"]]}
        for group in groups
    ]
    tensors = [tensor for group in copies for tensor in group["params"]]
    optimizer = kind(copies, **usual)
    for step in range(7):
        optimizer.zero_grad()
        with_gradient = tensors if step % 3 else tensors[:-1]
        torch.stack(
            [(tensor**4).sum() + tensor.sin().sum() for tensor in with_gradient]
        ).sum().backward()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()
    return [tensor.detach() for tensor in tensors]


@pytest.fixture
def groups() -> list[dict[str, Any]]:
    draws = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 2, 2), (4,), (5, 3)]
    first, *others = [torch.randn(shape, generator=draws) for shape in shapes]
    first = first.contiguous(memory_format=torch.channels_last)
    return [{"params": [first], "lr": 0.02}, {"params": others}]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_sgd_is_pytorchs(groups: list[dict[str, Any]], momentum: float, nesterov: bool) -> None:
    groups[1]["weight_decay"] = 0.1
    usual = {"lr": 0.01, "momentum": momentum, "nesterov": nesterov}

    found = moved_by(optimizers.SGD, groups, **usual)

    expected = moved_by(torch.optim.SGD, groups, foreach=True, **usual)
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(found[0], groups[0]["params"][0])


@pytest.mark.parametrize("fused", [False, True])
def test_adam_is_pytorchs(groups: list[dict[str, Any]], fused: bool) -> None:
    usual = {"lr": 0.05, "betas": (0.5, 0.99), "fused": fused}

    found = moved_by(optimizers.Adam, groups, **usual)

    expected = moved_by(torch.optim.Adam, groups, **usual)
    assert all(map(torch.equal, found, expected))


def test_tensors_need_no_group() -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = optimizers.Adam([weight], lr=0.1, betas=(0.9, 0.99))
    weight.sum().backward()
    optimizer.step()

    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))
    optimizer.zero_grad()
    assert weight.grad is None
