import pytest
import torch
from torch import Tensor

import recover.least_squares
from recover.least_squares import masked_least_squares


def problem(num_inputs: int = 6, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight (G, 4, P), inputs (G, 50, P) and their mean products, float64."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(groups, 4, num_inputs, generator=draws, dtype=torch.float64)
    rows = torch.randn(groups, 50, num_inputs, generator=draws, dtype=torch.float64)
    return weight, rows, rows.mT @ rows / 50


def test_where_nothing_is_pruned_nothing_changes() -> None:
    weight, _, xx = problem()

    fitted = masked_least_squares(weight, torch.ones_like(weight).bool(), xx, xx @ weight.mT, 0.1)

    torch.testing.assert_close(fitted, weight)


def test_the_kept_entries_are_those_of_lstsq_and_the_others_zero() -> None:
    weight, rows, xx = problem(groups=2)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    kept[0, 0] = False
    kept[1, 1] = True

    fitted = masked_least_squares(weight * kept, kept, xx, xx @ weight.mT, 1e-12)

    assert not fitted[~kept].any()
    for group, output in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        places = kept[group, output]
        wanted = rows[group] @ weight[group, output]
        expected = torch.linalg.lstsq(rows[group][:, places], wanted[:, None]).solution[:, 0]
        torch.testing.assert_close(fitted[group, output, places], expected)


def test_a_pruned_input_that_is_a_sum_of_kept_ones_is_made_up_for() -> None:
    weight, rows, _ = problem()
    rows[0, :, 5] = rows[0, :, 0] - 2 * rows[0, :, 1]
    xx = rows.mT @ rows / 50
    kept = torch.ones_like(weight).bool()
    kept[..., 5] = False

    fitted = masked_least_squares(weight * kept, kept, xx, xx @ weight.mT, 1e-12)

    torch.testing.assert_close(rows @ fitted.mT, rows @ weight.mT)


def test_damping_solves_the_ridge_problem_around_the_present_weights() -> None:
    weight, _, xx = problem()
    kept = torch.arange(6).expand_as(weight) < 4
    now, damping = weight * kept, 0.3

    fitted = masked_least_squares(now, kept, xx, xx @ weight.mT, damping)

    ridge = damping * xx[0].diagonal().mean()
    gradient = (fitted - weight) @ xx + ridge * (fitted - now)
    assert gradient[kept].abs().max() < 1e-9


def test_much_damping_leaves_the_weights_as_they_are() -> None:
    weight, _, xx = problem()
    kept = torch.arange(6).expand_as(weight) < 4

    fitted = masked_least_squares(weight * kept, kept, xx, xx @ weight.mT, 1e9)

    torch.testing.assert_close(fitted, weight * kept)


def test_inputs_that_are_always_zero_leave_their_weights_alone() -> None:
    weight, _, xx = problem()

    fitted = masked_least_squares(
        weight, torch.ones_like(weight).bool(), torch.zeros_like(xx), xx[:, :, :4] * 0, 0.01
    )

    assert torch.equal(fitted, weight)


@pytest.mark.parametrize("most_entries", [1, 40])
def test_solving_a_few_at_a_time_gives_the_same(
    most_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, _, xx = problem(groups=3)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    whole = masked_least_squares(weight * kept, kept, xx, xx @ weight.mT, 0.01)

    monkeypatch.setattr(recover.least_squares, "_MOST_ENTRIES", most_entries)

    parts = masked_least_squares(weight * kept, kept, xx, xx @ weight.mT, 0.01)
    torch.testing.assert_close(parts, whole)
