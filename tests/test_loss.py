import pytest
import torch

from recover.loss import distillation_loss, standardized


def test_equal_answers_cost_nothing_at_any_temperature() -> None:
    logits = torch.randn(5, 7)

    for temperature in (0.5, 1.0, 4.0):
        loss = distillation_loss(logits, logits + 3.0, temperature)  # softmax ignores the shift
        assert abs(loss.item()) < 1e-5


def test_the_gradient_is_the_difference_of_the_softened_answers() -> None:
    student = torch.randn(6, 4, dtype=torch.float64).float().requires_grad_()
    teacher, temperature = torch.randn(6, 4), 3.0

    distillation_loss(student, teacher, temperature).backward()

    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature * difference / 6)


def test_the_loss_of_two_known_answers() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = log 2 - H(3/4), at temperature 1.
    teacher, student = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)

    loss = distillation_loss(student, teacher, 1.0)

    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    torch.testing.assert_close(loss, expected)


def test_standardized_logits_have_mean_0_and_deviation_1() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, -10.0]])

    torch.testing.assert_close(
        standardized(logits), torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]])
    )


def test_equal_logits_stay_finite() -> None:
    assert torch.equal(standardized(torch.full((2, 5), 3.0)), torch.zeros(2, 5))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_standardized_loss_asks_for_relations_not_for_sizes(temperature: float) -> None:
    teacher = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))

    same = distillation_loss(3 * teacher + 2, teacher, temperature, standardize=True)
    plain = distillation_loss(3 * teacher + 2, teacher, temperature)

    assert same.item() == pytest.approx(0, abs=1e-6)
    assert plain.item() > 0.1


def test_the_standardized_loss_of_two_known_answers() -> None:
    # Both standardize to (-1, 0, 1), but in other orders: e^(+-1) and 1 over their sum.
    teacher, student = torch.tensor([[0.0, 5.0, 10.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    e = torch.tensor(1.0).exp()

    loss = distillation_loss(student, teacher, 1.0, standardize=True)

    # sum p_i (z_i - s_i) with z - s = (-2, 0, 2); the logarithms of the sums cancel.
    torch.testing.assert_close(loss, 2 * (e - 1 / e) / (1 / e + 1 + e))
