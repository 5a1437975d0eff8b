"""Names that are given beside recorded ones: the same ones go without saying."""

import re

import pytest
from test_answers import spec_of

from shared.errors import ConfigError
from shared.facts import Facts
from shared.spec import SIGMOID

NAMES = ("top", "left")


def facts(given: tuple[str, ...] | None, metadata: dict | None = None) -> Facts:
    """Of a set of two findings that are called top and left."""
    return Facts({"class_names": given}, metadata or {}, spec_of(NAMES))


@pytest.mark.parametrize("given", [NAMES, ("none", *NAMES)])
def test_the_recorded_names_of_findings_given_again_are_no_news(given: tuple[str, ...]) -> None:
    found = facts(given)

    assert found.class_names(3, SIGMOID) == ("none", *NAMES)
    assert found.notes == []


@pytest.mark.parametrize(("given", "num_notes"), [((0.5,), 0), ((0.5,) * 3, 0), ((0.4,), 1)])
def test_one_number_for_all_channels_is_what_is_recorded_of_each(
    given: tuple[float, ...], num_notes: int
) -> None:
    found = Facts({"mean": given}, {"mean": [0.5, 0.5, 0.5]}, None)

    assert found.find("mean") == given
    assert len(found.notes) == num_notes


def test_which_names_differ_is_said() -> None:
    one, both = facts(("top", "right")), facts(("up", "right"))

    assert one.class_names(3, SIGMOID) == ("none", "top", "right")
    assert both.class_names(3, SIGMOID) == ("none", "up", "right")
    took = "class names: took 'right' for class 2 as given, though 'left' is recorded"
    assert one.notes == [took]
    assert both.notes[0].endswith("'up' for class 1 as given, though 'top' is recorded, and 1 more")


def test_names_of_more_than_the_findings_are_refused_and_recorded_ones_passed_over() -> None:
    with pytest.raises(ConfigError, match=r"found 3, the first 'up', expected 2, one for each fi"):
        facts(("up", "down", "left")).class_names(3, SIGMOID)
    found = Facts({}, {"classes": ["up", "down", "left"]}, None)

    assert found.class_names(3, SIGMOID) is None
    assert found.notes[0].startswith("recorded class names ignored: found 3, the first 'up', expe")


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [1e-300]), ([1e9], [1.0]), ([10**400], [0.2]), ([0.1], [10**400])]
)
def test_a_recorded_scale_beyond_use_is_passed_over_aloud(mean: list, std: list) -> None:
    found = Facts({}, {"mean": mean, "std": std}, None)

    assert len(found.notes) == 1
    assert re.match(r"recorded (mean|std) ignored: found", found.notes[0])
