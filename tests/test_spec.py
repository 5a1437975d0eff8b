import json

import pytest

from shared.errors import ConfigError
from shared.spec import TeacherSpec

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
        ("std", (0.2, 0.0, 0.2)),
        ("fingerprint", "A" * 64),
        ("class_names", ("cat",)),
    ],
)
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        TeacherSpec(**{**GOOD, name: value})


@pytest.mark.parametrize(
    "record", [{}, {"architecture": "x"}, {**GOOD, "mean": None}, {**GOOD, "num_classes": "many"}]
)
def test_records_that_are_incomplete_or_of_other_types_are_one_error(record):
    with pytest.raises(ConfigError, match="teacher"):
        TeacherSpec.from_json(record)
