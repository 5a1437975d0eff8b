"""Whatever is odd in what an unfinished run left is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recover_fixtures import blob_dreams, quick_config

from recover.pipeline import recover_student
from recover.report import RecoveryReport
from recover.state import read_state
from shared.checkpoint import load_state, save_state
from shared.dreamset import DreamSet
from shared.errors import CheckpointError
from shared.progress import Progress
from shared.teacher import Teacher

CONFIG = quick_config(ema=0.9, checkpoint_every=1e-9)


@pytest.fixture(scope="module")
def dreams(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> DreamSet:
    return blob_dreams(tmp_path_factory.mktemp("dreams"), tiny_teacher)


@pytest.fixture(scope="module")
def killed(
    tiny_teacher: Teacher, dreams: DreamSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of a run that was killed at its sixth step."""
    out = tmp_path_factory.mktemp("killed")

    def progress(report: Progress) -> None:
        if report.stage == "distill" and report.done >= 6:
            raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recover.course.SECONDS_PER_REPORT", 0.0)
        with pytest.raises(RuntimeError, match="killed"):
            recover_student(CONFIG, tiny_teacher, dreams, None, out, progress)
    return out / "checkpoint.pt"


@pytest.fixture
def go_on(tiny_teacher: Teacher, dreams: DreamSet, tmp_path: Path) -> Callable[[], RecoveryReport]:
    return lambda: recover_student(CONFIG, tiny_teacher, dreams, None, tmp_path)


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda state: [1, 2],
    "other weights": lambda state: {"conv1.weight": torch.zeros(3)},
    **{
        f"no {name}": lambda state, name=name: {k: v for k, v in state.items() if k != name}
        for name in ("stages", "arguments", "step", "masks", "seconds")
    },
    **{
        f"{name} is {value!r}": lambda state, name=name, value=value: {**state, name: value}
        for name, value in (
            ("arguments", "{"),
            ("arguments", "[1]"),
            ("arguments", 7),
            ("stages", '{"teacher": 1}'),
            ("stages", '{"teacher": {"odd": 1}}'),
            ("step", "x"),
            ("step", -1),
            ("step", 1.5),
            ("seconds", float("nan")),
            ("momentum", None),
            ("momentum", {"conv1.weight": 1}),
            ("average", None),
            ("loss_sum", None),
            ("student", {}),
            ("masks", {}),
        )
    },
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_odd_state_is_one_line(
    killed: Path, tmp_path: Path, go_on: Callable[[], RecoveryReport], name: str
) -> None:
    save_state(tmp_path / "checkpoint.pt", DAMAGES[name](load_state(killed)))

    with pytest.raises(CheckpointError, match=r"damaged.*start again with --overwrite") as found:
        go_on()

    assert "\n" not in str(found.value)


def test_a_state_that_was_cut_off_or_replaced_is_one_line(killed: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "checkpoint.pt", killed.read_bytes()
    for data in (b"", b"rubbish", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="start again with --overwrite"):
            read_state(path)


@pytest.mark.parametrize(
    "tail",
    [b'\xff\xfe{"step": 3', b"[1]\n", b'"x"\n', b"3\n", b'{"step": "x"}\n', b'{"loss": 1}\n'],
)
def test_rows_that_are_none_are_dropped(
    killed: Path, tmp_path: Path, go_on: Callable[[], RecoveryReport], tail: bytes
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(killed.read_bytes())
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 5, "loss": 1.0}\n' + tail)

    go_on()

    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 12]
