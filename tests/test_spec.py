import json

import pytest

from shared.errors import ConfigError
from shared.spec import SIGMOID, TeacherSpec

GOOD = {
    "architecture": "resnet20",
    "num_classes": 2,
    "image_shape": (3, 32, 32),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
    "fingerprint": "a" * 64,
    "class_names": ("cat", "dog"),
}


def test_json_round_trip():
    spec = TeacherSpec(**GOOD, path="x.pt", assumptions=("one",))

    assert TeacherSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", ""),
        ("num_classes", 0),
        ("image_shape", (3, 32)),
        ("image_shape", (3, 0, 32)),
        ("mean", (0.5,)),
        ("mean", (0.5, 0.5, float("nan"))),
        ("mean", (0.5, 0.5, 1e300)),
        ("std", (0.2, 0.0, 0.2)),
        ("std", (0.2, -0.2, 0.2)),
        ("std", (0.2, 1e-300, 0.2)),  # 0 in float32
        ("std", (0.2, 1e-9, 0.2)),
        ("std", (0.2, 1e39, 0.2)),  # infinite there
        ("fingerprint", "A" * 64),
        ("class_names", ("cat",)),
    ],
)
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        TeacherSpec(**{**GOOD, name: value})


@pytest.mark.parametrize("std", [1 / 65535, 1 / 255, 1.0, 255.0])
def test_scales_of_bytes_and_of_words_are_taken(std):
    assert TeacherSpec(**{**GOOD, "std": (std,) * 3}).std == (std,) * 3


@pytest.mark.parametrize(
    "record", [{}, {"architecture": "x"}, {**GOOD, "mean": None}, {**GOOD, "num_classes": "many"}]
)
def test_records_that_are_incomplete_or_of_other_types_are_one_error(record):
    with pytest.raises(ConfigError, match="teacher"):
        TeacherSpec.from_json(record)


FINDINGS = {**GOOD, "num_classes": 4, "class_names": None, "answers": SIGMOID}


@pytest.mark.parametrize("none", ["none", "None"])
def test_findings_have_as_many_names_or_none_and_these(none):
    spec = TeacherSpec(**FINDINGS)

    assert spec.with_class_names("abc").class_names == ("none", "a", "b", "c")
    named = spec.with_class_names([none, *"abc"])
    assert named.class_names == (none, "a", "b", "c")
    assert TeacherSpec.from_json(named.to_json()) == named
    assert spec.with_class_names(None).class_names is None


@pytest.mark.parametrize("names", ["ab", "abcd", "abcde"])
def test_other_names_of_findings_are_refused_with_the_number_expected(names):
    # Four names of three findings: the first would be that of none, and each finding the next's.
    with pytest.raises(ConfigError, match=r"expected 3, one for each finding, or \"none\" and th"):
        TeacherSpec(**FINDINGS).with_class_names(names)
    with pytest.raises(ConfigError, match="teacher class_names: found"):
        TeacherSpec(**{**FINDINGS, "class_names": tuple(names)})


def test_a_single_number_has_two_classes_of_any_names():
    spec = TeacherSpec(**{**GOOD, "class_names": None, "answers": SIGMOID})

    assert spec.with_class_names(["cat", "dog"]).class_names == ("cat", "dog")
    assert spec.with_class_names(["dog"]).class_names == ("none", "dog")
