import pytest

from recover.config import RecoverConfig
from recover.schedule import (
    channels_at,
    is_pruning_step,
    last_pruning_step,
    learning_rate,
    sparsity_at,
)
from shared.errors import ConfigError

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


TWICE = RecoverConfig(sparsity=0.75, steps=100, rounds=2, prune_end=0.4, prune_every=10, lr=0.4)


def test_every_round_takes_away_the_same_share_of_what_is_left() -> None:
    assert sparsity_at(TWICE, 0) == 0
    assert sparsity_at(TWICE, 10) == pytest.approx(0.5 * 7 / 8)  # half way to half: 1 - (1/2)^3
    assert sparsity_at(TWICE, 20) == sparsity_at(TWICE, 49) == pytest.approx(0.5)
    assert sparsity_at(TWICE, 50) == pytest.approx(0.5)
    assert sparsity_at(TWICE, 60) == pytest.approx(0.5 + 0.25 * 7 / 8)
    assert sparsity_at(TWICE, 70) == sparsity_at(TWICE, 99) == 0.75


def test_masks_are_chosen_on_the_way_to_the_goal_of_every_round() -> None:
    assert [step for step in range(100) if is_pruning_step(TWICE, step)] == [
        *(0, 10, 20),
        *(50, 60, 70),
    ]
    assert last_pruning_step(TWICE) == 70


def test_the_rate_rises_and_falls_in_every_round() -> None:
    config = RecoverConfig(lr=0.4, steps=40, rounds=2, warmup=0.2)
    once = RecoverConfig(lr=0.4, steps=20, warmup=0.2)

    rates = [learning_rate(config, step) for step in range(40)]

    assert rates[:20] == rates[20:] == [learning_rate(once, step) for step in range(20)]


def test_rounds_go_on_from_the_level_below_and_end_exactly() -> None:
    warm = RecoverConfig(sparsity=0.9, steps=90, rounds=3, warm_start=0.2)
    slim = RecoverConfig(sparsity=0.0, channels=0.25, steps=100, rounds=2, prune_end=0.4)

    assert [sparsity_at(warm, step) for step in (0, 29, 59, 89)] == pytest.approx(
        [0.2, 1 - 0.8 / 2, 1 - 0.8 / 4, 0.9]
    )
    assert sparsity_at(warm, 89) == 0.9
    assert [channels_at(slim, step) for step in (0, 20, 99)] == pytest.approx([1, 0.5, 0.25])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("rounds", [1, 3, 8])
@pytest.mark.parametrize("sparsity", [0.0, 0.98])
def test_the_goal_is_set_once_and_last_however_many_rounds(
    steps: int, rounds: int, sparsity: float
) -> None:
    config = RecoverConfig(sparsity=sparsity, steps=steps, rounds=rounds)

    prunings = [step for step in range(steps) if is_pruning_step(config, step)]
    reached = [sparsity_at(config, step) for step in prunings]

    assert prunings[-1] == last_pruning_step(config) < steps
    assert reached == sorted(reached)
    assert reached[-1] == sparsity


def test_rounds_without_a_gradual_schedule_are_refused() -> None:
    with pytest.raises(ConfigError, match="--rounds 2: found --schedule one-shot, expected"):
        RecoverConfig(rounds=2, schedule="one-shot")
