import pytest

from recover.config import RecoverConfig
from recover.schedule import is_pruning_step, last_pruning_step, learning_rate, sparsity_at

CUBIC = RecoverConfig(sparsity=0.8, steps=100, prune_end=0.5, prune_every=10)


def test_the_cubic_schedule_starts_dense_and_ends_exactly_at_the_target() -> None:
    assert sparsity_at(CUBIC, 0) == 0
    assert sparsity_at(CUBIC, 25) == pytest.approx(0.8 * 7 / 8)  # half way: 1 - (1/2)^3
    assert sparsity_at(CUBIC, 50) == 0.8
    assert sparsity_at(CUBIC, 99) == 0.8


def test_the_sparsity_never_falls() -> None:
    values = [sparsity_at(CUBIC, step) for step in range(100)]

    assert values == sorted(values)


def test_masks_are_chosen_every_few_steps_and_at_the_end_of_the_schedule() -> None:
    config = RecoverConfig(steps=100, prune_end=0.45, prune_every=20)

    assert [step for step in range(100) if is_pruning_step(config, step)] == [0, 20, 40, 45]


def test_in_one_shot_everything_is_pruned_before_the_first_step() -> None:
    config = RecoverConfig(sparsity=0.7, schedule="one-shot", steps=50)

    assert [step for step in range(50) if is_pruning_step(config, step)] == [0]
    assert sparsity_at(config, 0) == 0.7


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("prune_end", [0.01, 0.6, 1.0])
def test_the_target_is_reached_however_few_steps_there_are(steps: int, prune_end: float) -> None:
    config = RecoverConfig(sparsity=0.9, steps=steps, prune_end=prune_end)

    reached = [sparsity_at(config, t) for t in range(steps) if is_pruning_step(config, t)]

    assert reached[-1] == 0.9
    assert 0 <= last_pruning_step(config) < steps


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    config = RecoverConfig(lr=0.4, steps=20, warmup=0.2)

    assert [learning_rate(config, step) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert learning_rate(config, 4) == 0.4
    assert learning_rate(config, 12) == pytest.approx(0.2)
    assert 0 < learning_rate(config, 19) < 0.01


def test_a_constant_rate_without_warm_up_is_constant() -> None:
    config = RecoverConfig(lr=1e-3, steps=20, warmup=0.0, lr_schedule="constant")

    assert {learning_rate(config, step) for step in range(20)} == {1e-3}
