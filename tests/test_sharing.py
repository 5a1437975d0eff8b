"""The commands of docs/sharing.md, run as they stand there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import dreamforge.cli
import recover.cli
from shared.dreamset import DreamSet

PAGE = (Path(__file__).parent.parent / "docs" / "sharing.md").read_text()
FENCES = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, text in FENCES if kind == "sh" for line in text.splitlines()]
TOOLS = {"dreamforge": dreamforge.cli.main, "recover": recover.cli.main}
# Little work for each; flags on the page would win.
SHORT = {
    "DREAMFORGE_SYNTH_STEPS": "1",
    "DREAMFORGE_SYNTH_DEVICE": "cpu",
    "DREAMFORGE_VERIFY_DEVICE": "cpu",
    "RECOVER_RUN_STEPS": "2",
    "RECOVER_RUN_DEVICE": "cpu",
}


@pytest.mark.slow
def test_both_ends_of_a_handover(runner, teacher_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(teacher_file, "teacher.safetensors")
    assert len(COMMANDS) >= 12
    for line in COMMANDS:
        tool, *arguments = shlex.split(line.replace("--n 4096", "--n 512"))  # two shards
        result = runner.invoke(TOOLS[tool], arguments, env=SHORT)
        assert result.exit_code == 0, f"{line}\n{result.output}"

    names = {path.name for path in Path("handover").iterdir()}
    assert {"README.md", "croissant.json", "dreams.h5", "dreams.png"} <= names
    assert DreamSet.open("parcel/dreams.h5").manifest.packed
    (example,) = (text for kind, text in FENCES if kind == "python" and "DataLoader" in text)
    scope: dict[str, object] = {}
    exec(example.replace("num_workers=2", "num_workers=0"), scope)
    images, labels, logits = next(iter(scope["loader"]))  # type: ignore[call-overload]
    assert (images.shape[0], images.dtype, logits.shape[1]) == (256, torch.uint8, 4)
    assert labels.dtype == torch.int64
