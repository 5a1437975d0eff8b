import click
import pytest
from click.testing import CliRunner

from dreamforge.cli import main as dreamforge
from dreamforge.config import SynthesisConfig, parse_sparsities
from dreamforge.presets import PRESETS, preset_values
from recover.cli import main as recover
from recover.config import RecoverConfig
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("beta1", 1.0),
        ("bn_weight", -1.0),
        ("bn_distance", "js"),
        ("batch_size", 1),
    ],
)
def test_nonsense_is_refused_with_flag_and_value(name, value):
    with pytest.raises(ConfigError) as caught:
        SynthesisConfig(**{name: value})

    flag = "--n" if name == "num_images" else "--" + name.replace("_", "-")
    assert str(caught.value).startswith(f"{flag}: found {value}, expected")


@pytest.mark.parametrize("name", ["student", "student_weights", "unlabeled", "keep", "device"])
def test_nothing_is_no_value_of_an_option(name):
    with pytest.raises(ConfigError, match="found nothing, expected a value") as caught:
        RecoverConfig(**{name: ""})

    assert str(caught.value).startswith("--" + name.replace("_", "-"))


PATHS = [
    pytest.param(param, id=f"{tool.name} {name} {param.name}")
    for tool in (dreamforge, recover)
    for name, command in tool.commands.items()
    for param in command.params
    if isinstance(param.type, click.Path)
]


@pytest.mark.parametrize("param", PATHS)
def test_nothing_is_no_path(param):
    """As one it would be the folder that one is in."""
    with pytest.raises(click.BadParameter, match="found nothing, expected a path"):
        param.type.convert("", param, None)


def test_an_empty_path_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for tool, *arguments in (
        (recover, "run", "--dreams", ""),
        (recover, "report", ""),
        (dreamforge, "import", "", "--teacher", "teacher.pt", "--out", "set.h5"),
        (dreamforge, "synth", "--teacher", "teacher.pt", "--out", ""),
    ):
        result = CliRunner().invoke(tool, arguments)
        assert result.exit_code == 2
        assert "found nothing, expected a path" in result.stderr
    assert not list(tmp_path.iterdir())


def test_automatic_choices_follow_the_image_size():
    small = SynthesisConfig(num_images=5000).resolve((3, 32, 32))
    large = SynthesisConfig(num_images=5000).resolve((3, 224, 224))

    assert (small.steps, small.batch_size, small.jitter) == (100, 256, 4)
    assert (large.steps, large.batch_size, large.crop_area) == (1000, 64, 0.25)
    assert small.shard_size % small.batch_size == 0
    assert large.shard_size * 3 * 224 * 224 <= 64 * 2**20


def test_resolving_twice_changes_nothing():
    once = SynthesisConfig(num_images=999).resolve((1, 8, 8))

    assert once.resolve((1, 8, 8)) == once


def test_a_batch_is_never_larger_than_the_set():
    assert SynthesisConfig(num_images=10).resolve((3, 32, 32)).batch_size == 10


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_configs(name):
    assert SynthesisConfig(**preset_values(name, 32)).resolve((3, 32, 32)).steps


def test_the_seed_papers_jitter_scales_from_its_own_image_size():
    assert preset_values("tripurwar2025", 224)["jitter"] == 32
    assert preset_values("tripurwar2025", 32)["jitter"] == 5


@pytest.mark.parametrize("text", [" ", "0.8,", "0.8;0.9", "1.0", "0", "-0.5,0.8", "nan"])
def test_opponents_of_no_sparsity_are_refused(text):
    with pytest.raises(ConfigError, match=r"--opponent-sparsity: found .*above 0 and below 1"):
        SynthesisConfig(method="adaptive", opponent_sparsity=text)


def test_sparsities_are_numbers_between_commas():
    assert parse_sparsities("0.8, 0.95") == (0.8, 0.95)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_smoothing": 0.1}, "--target-smoothing: found --targets hard, expected soft"),
        (
            {"targets": "pairs", "class_loss": "entropy"},
            "--targets pairs: found --class-loss entropy, which has no targets, "
            "expected cross-entropy",
        ),
        (
            {"competition_weight": 2.0},
            "--competition-weight: found 2.0 with --method inversion, which has no use for it; "
            "leave it out, or use --method adaptive",
        ),
    ],
)
def test_options_that_say_nothing_together_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        SynthesisConfig(**values)
    assert str(caught.value) == message


def test_what_decides_the_pixels_is_recorded_and_nothing_else():
    plain = SynthesisConfig().resolve((3, 32, 32)).to_json()
    soft = SynthesisConfig(targets="soft").resolve((3, 32, 32)).to_json()
    adaptive = SynthesisConfig(method="adaptive").resolve((3, 32, 32)).to_json()

    assert soft == plain | {"targets": "soft", "target_smoothing": 0.1}
    assert adaptive == plain | {
        "method": "adaptive",
        "competition_weight": 1.0,
        "opponent_sparsity": "0.8,0.95",
        "opponent_temperature": 3.0,
    }


@pytest.mark.parametrize("value", [2**63, 10**400])
def test_whole_numbers_that_no_file_can_hold_are_refused(value):
    for config, name in (
        (SynthesisConfig, "seed"),
        (RecoverConfig, "seed"),
        (RecoverConfig, "steps"),
    ):
        with pytest.raises(
            ConfigError, match=f"--{name}: found {value}, expected at most {2**63 - 1}$"
        ):
            config(**{name: value})
    for tool in (dreamforge, recover):
        command = "synth" if tool is dreamforge else "run"
        words = [command, "--teacher", "none.pt", "--dreams", "none.h5", "--seed", str(value)]
        if tool is dreamforge:
            words[3:5] = ["--out", "none.h5"]
        result = CliRunner().invoke(tool, words)
        assert result.exit_code == 2, result.output
        assert "--seed" in result.stderr
