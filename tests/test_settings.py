from typing import Any

import pytest

from recover.config import RecoverConfig
from recover.presets import PRESETS
from recover.settings import (
    FROM_SCRATCH,
    base_settings,
    default_suffix,
    remark_on_student,
)
from shared.cli_options import build_config

NOTHING: dict[str, Any] = {"student": None, "student_weights": None, "sparsity": None, "lr": None}


def config_of(preset: str = "default", **given: Any) -> RecoverConfig:
    arguments = NOTHING | given
    return build_config(RecoverConfig, arguments, base_settings(preset, arguments))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_without_another_student_the_preset_is_all(preset: str) -> None:
    assert base_settings(preset, NOTHING) == PRESETS[preset]
    assert remark_on_student(preset, NOTHING) is None


def test_a_student_from_scratch_has_its_own_defaults_and_flags_win() -> None:
    config = config_of(student="resnet20", lr=0.02)

    assert (config.sparsity, config.lr) == (0, 0.02)
    assert config.steps == FROM_SCRATCH["steps"] > RecoverConfig().steps
    assert config.bn_mode == "train"


def test_a_student_with_weights_keeps_the_usual_settings_but_is_not_pruned() -> None:
    config = config_of(student="resnet20", student_weights="s.pt")

    usual = RecoverConfig(student="resnet20", student_weights="s.pt", sparsity=0.0)
    assert config == usual


def test_a_preset_wins_over_these_but_for_the_sparsity() -> None:
    config = config_of("tripurwar2025", student="resnet20", student_weights="s.pt")

    assert config.sparsity == 0
    assert config.lr == PRESETS["tripurwar2025"]["lr"]


def test_the_remark_lists_what_was_chosen_and_nothing_that_was_given() -> None:
    given = NOTHING | {"student": "resnet20", "lr": 0.02}

    remark = remark_on_student("default", given)

    assert remark is not None
    assert "--sparsity 0, --steps 10000, --weight-decay 0.0005, --repair-images 0" in remark
    assert "--lr" not in remark


def test_with_all_of_it_given_there_is_nothing_to_remark() -> None:
    given = NOTHING | {"student": "resnet20", "student_weights": "s.pt", "sparsity": 0.5}

    assert remark_on_student("default", given) is None


@pytest.mark.parametrize(
    ("changes", "suffix"),
    [
        ({"sparsity": 0.8}, "-s0.8"),
        ({"student": "resnet20", "sparsity": 0.0}, "-resnet20"),
        ({"student": "timm:vit_tiny.x", "sparsity": 0.5}, "-timm-vit_tiny.x-s0.5"),
    ],
)
def test_folders_are_named_after_student_and_sparsity(changes: dict[str, Any], suffix: str) -> None:
    assert default_suffix(RecoverConfig(**changes)) == suffix


@pytest.mark.parametrize(
    ("preset", "given", "importance"),
    [
        ("default", {"channels": 0.5}, "fisher"),
        ("default", {"channels": 0.5, "schedule": "one-shot"}, "magnitude"),
        ("default", {"channels": 0.5, "steps": 0}, "magnitude"),
        ("default", {"channels": 0.5, "importance": "random"}, "random"),
        ("tripurwar2025", {"channels": 0.5}, "magnitude"),
        ("tripurwar2025", {"channels": 0.5, "schedule": "gradual"}, "fisher"),
        ("default", {"sparsity": 0.98}, "fisher"),
        ("default", {"sparsity": 0.95}, "magnitude"),
        ("default", {"sparsity": 0.98, "importance": "magnitude"}, "magnitude"),
        ("default", {"sparsity": 0.98, "schedule": "one-shot"}, "magnitude"),
        ("default", {"sparsity": 0.98, "allocation": "lamp"}, "fisher"),
        ("default", {"sparsity": 0.98, "allocation": "erk"}, "magnitude"),
        ("default", {"sparsity": 0.98, "student": "resnet20"}, "magnitude"),
    ],
)
def test_gradients_decide_where_there_are_some_and_it_pays(
    preset: str, given: dict[str, Any], importance: str
) -> None:
    config = config_of(preset, **given)

    assert config.resolve((3, 8, 8)).importance == importance
    if "channels" in given:
        assert (config.sparsity, default_suffix(config)) == (0, "-c0.5")


@pytest.mark.parametrize(
    ("given", "allocation"),
    [
        ({"sparsity": 0.98}, "lamp"),
        ({"sparsity": 0.96}, "global"),
        ({"sparsity": 0.96, "importance": "fisher"}, "global"),
        ({"sparsity": 0.98, "importance": "magnitude"}, "global"),
        ({"sparsity": 0.98, "allocation": "global"}, "global"),
        ({"sparsity": 0.98, "schedule": "one-shot"}, "global"),
        ({"channels": 0.01}, "global"),
        ({"pattern": "1:64"}, "global"),
    ],
)
def test_few_weights_are_compared_with_what_is_left_of_their_layer(
    given: dict[str, Any], allocation: str
) -> None:
    assert config_of("default", **given).resolve((3, 8, 8)).allocation == allocation
