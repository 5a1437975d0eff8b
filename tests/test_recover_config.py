import pytest

from recover.config import RecoverConfig
from recover.presets import PRESETS
from recover.settings import PRUNING_OPTIONS
from shared.cli_options import build_config
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 1.0}, "--sparsity: found 1.0, expected less than 1"),
        ({"sparsity": -0.1}, "--sparsity: found -0.1, expected at least 0"),
        ({"temperature": 0.0}, "--temperature: found 0.0, expected more than 0"),
        ({"schedule": "weekly"}, "--schedule: found weekly, expected one of gradual, one-shot"),
        ({"batch_size": 1}, "--batch-size: found 1, expected at least 2"),
        ({"lr": float("nan")}, "--lr: found nan, expected a finite number"),
        ({"final_repair": True, "holdout": 0.0}, "--final-repair: found --holdout 0"),
        ({"allocation": "snip"}, "--allocation: found snip, expected one of global, uniform, erk"),
        (
            {"allocation": "lamp", "importance": "random"},
            "--allocation lamp: found --importance random, expected magnitude or fisher",
        ),
        ({"importance": "fisher", "schedule": "one-shot"}, "--importance fisher: found pruning in"),
        ({"importance": "fisher", "steps": 0}, "--importance fisher: found pruning in one shot"),
    ],
)
def test_impossible_values_are_refused_by_the_flags_name(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RecoverConfig(**changes)

    assert str(caught.value).startswith(message)


def test_the_shift_follows_the_image_and_stays_inside_it() -> None:
    assert RecoverConfig().resolve((3, 32, 32)).shift == 4
    assert RecoverConfig().resolve((3, 224, 160)).shift == 20
    assert RecoverConfig(shift=0).resolve((3, 32, 32)).shift == 0
    assert RecoverConfig(shift=99).resolve((1, 8, 8)).shift == 7


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_valid_config(name: str) -> None:
    build_config(RecoverConfig, {}, PRESETS[name])


def test_the_seed_papers_preset_is_what_its_code_says() -> None:
    config = build_config(RecoverConfig, {}, PRESETS["tripurwar2025"])

    assert (config.steps, config.batch_size, config.lr, config.temperature) == (480, 32, 1e-3, 3)
    assert (config.schedule, config.bn_mode, config.repair_images) == ("one-shot", "frozen", 0)
    assert not config.scale_loss


def test_explicit_flags_beat_the_preset() -> None:
    config = build_config(RecoverConfig, {"sparsity": 0.9, "steps": None}, PRESETS["tripurwar2025"])

    assert config.sparsity == 0.9
    assert config.steps == 480


def test_where_and_how_often_is_no_part_of_a_runs_identity() -> None:
    here = RecoverConfig(device="cpu", checkpoint_every=1.0)
    there = RecoverConfig(device="cuda:1", checkpoint_every=9.0)

    assert here.identity() == there.identity()
    assert here.identity() != RecoverConfig(lr=0.1).identity()


def test_the_options_of_pruning_alone_are_options_of_a_run() -> None:
    assert set(PRUNING_OPTIONS) <= set(RecoverConfig().to_json())
