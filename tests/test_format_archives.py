"""Every archived dream set still opens, and the reader printed in docs/format.md reads it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreamforge.verify import verify
from shared.dreamset import DreamSet
from shared.values import arrays_sha256

ROOT = Path(__file__).parent.parent
ARCHIVES = sorted((ROOT / "tests/data/archives").iterdir())


@pytest.mark.parametrize("folder", ARCHIVES, ids=lambda folder: folder.name)
def test_an_archived_set_still_opens(folder: Path) -> None:
    dreams = DreamSet.open(folder / "dreams.h5")

    rows = dreams.read(0, dreams.num_images)

    assert arrays_sha256(rows) in (folder / "README.md").read_text()
    assert dreams.manifest.teacher.class_names == ("red", "green", "blue", "gray")
    assert dreams.manifest.provenance["created"] == "2026-11-20T00:00:00+00:00"
    assert dreams.teacher_blob() == b"not a teacher, only bytes"


@pytest.mark.parametrize("folder", ARCHIVES, ids=lambda folder: folder.name)
def test_an_archived_set_is_still_fine(folder: Path) -> None:
    assert verify(folder / "dreams.h5").problems == ()


def test_the_documented_reader_reads_version_1() -> None:
    page = (ROOT / "docs/format.md").read_text()
    (reader,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)

    assert len(reader.splitlines()) <= 15
    result = subprocess.run(
        [sys.executable, "-c", reader, str(ROOT / "tests/data/archives/v1/dreams.h5")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.splitlines() == [
        "dreams-00000-of-00002.h5 (8, 3, 8, 8) [0 1 2 3 0 1 2 3] [0 1 2 3 0 1 2 3]",
        "dreams-00001-of-00002.h5 (8, 3, 8, 8) [0 1 2 3 0 1 2 3] [0 1 2 3 0 1 2 3]",
    ]
