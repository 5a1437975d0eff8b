import dataclasses

import pytest

from dreamforge.config import SynthesisConfig
from dreamforge.methods import METHODS, ONLY_WITH
from dreamforge.resume import synthesis_facts
from shared.errors import ConfigError


def test_every_entry_names_an_option_and_known_methods():
    names = {field.name for field in dataclasses.fields(SynthesisConfig)}

    assert set(ONLY_WITH) <= names
    assert all(set(methods) < set(METHODS) for methods in ONLY_WITH.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"method": "generator", "init": "white"},
            "--init: found white with --method generator, which has no use for it; "
            "leave it out, or use --method inversion or adaptive",
        ),
        (
            {"outer_rate": 0.1},
            "--outer-rate: found 0.1 with --method inversion, which has no use for it; "
            "leave it out, or use --method generator",
        ),
    ],
)
def test_an_option_that_the_method_does_not_look_at_is_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        SynthesisConfig(**values)
    assert str(caught.value) == message


def test_an_option_given_as_its_default_promises_nothing():
    assert SynthesisConfig(method="generator", lr=0.1).lr == 0.1


def test_a_generated_set_records_what_decided_it_and_nothing_else():
    record = SynthesisConfig(method="generator").resolve((3, 32, 32)).to_json()

    assert record["method"] == "generator"
    assert record["steps"] == 10
    assert {"outer_rate", "meta_batches", "bn_weight"} <= record.keys()
    assert not {"lr", "init", "opponent_sparsity"} & record.keys()


def test_sets_begun_before_there_were_methods_are_continued(tiny_teacher):
    """What the first version wrote, but for the teacher's facts."""
    facts = synthesis_facts(
        tiny_teacher,
        SynthesisConfig(
            num_images=8, compile="off", space="pixels", init="pink", jitter_kind="roll"
        ).resolve((3, 8, 8)),
    )

    assert set(facts) == {
        *("method", "engine", "num_images", "seed", "steps", "batch_size", "lr", "beta1", "beta2"),
        *("lr_schedule", "warmup", "class_loss", "class_weight", "bn_distance", "bn_weight"),
        *("first_bn_multiplier", "image_norm", "tv_weight", "l2_weight", "jitter", "flip", "init"),
        *("precision", "shard_size", "compress", "architecture", "image_shape", "mean", "std"),
    }
    assert facts["method"] == "deepinversion"
