"""The teachers that ship in data/ are what data/README.md says they are."""

import re
from pathlib import Path

import pytest
import torch

from shared.files import sha256_of
from shared.teacher import load_teacher

DATA = Path(__file__).parent.parent / "data"
TEACHERS = sorted(DATA.glob("*.safetensors"))


def test_every_file_is_listed_with_its_sha256():
    text = (DATA / "README.md").read_text()
    listed = re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})`", text, re.MULTILINE)

    assert dict(listed) == {path.name: sha256_of(path) for path in TEACHERS}


@pytest.mark.parametrize("path", TEACHERS, ids=lambda path: path.name)
def test_it_loads_with_nothing_but_its_path_and_nothing_assumed(path):
    teacher = load_teacher(path)
    images = torch.zeros(2, *teacher.spec.image_shape, dtype=torch.uint8)

    assert teacher.spec.assumptions == ()
    assert teacher.spec.class_names is not None
    assert teacher.logits(images).shape == (2, teacher.spec.num_classes)
