"""The state that an unfinished run left in its folder: written, and read with every doubt."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from recover.report import StageRecord
from shared.checkpoint import load_state, save_state
from shared.errors import CheckpointError

_TENSORS = ("student", "momentum", "masks")
_NUMBERS = ("step", "loss_count", "seconds")


def write_state(
    path: Path,
    state: Mapping[str, Any],
    *,
    arguments: Mapping[str, Any],
    stages: Mapping[str, StageRecord],
) -> None:
    """Write the state of a distillation, and of the run around it, atomically."""
    judged = {name: dataclasses.asdict(stage) for name, stage in stages.items()}
    texts = {"arguments": json.dumps(dict(arguments)), "stages": json.dumps(judged)}
    save_state(path, {**state, **texts})


def read_state(path: Path) -> dict[str, Any]:
    """Return what :func:`write_state` was given, with its ``arguments`` and ``stages``.

    Raises:
        CheckpointError: If the file is damaged, or none of a run.
    """
    try:
        state = load_state(path)
        _require_plain(state)
        stages = json.loads(state["stages"]).items()
        return {
            **state,
            "arguments": dict(json.loads(state["arguments"]).items()),
            "stages": {name: StageRecord(**record) for name, record in stages},
        }
    except CheckpointError as error:
        raise damaged(path, str(error).removeprefix(f"{path}: ")) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def damaged(path: Path, reason: str) -> CheckpointError:
    """Return the error of a state that no run can go on from."""
    words = " ".join(reason.split())[:120]
    return CheckpointError(
        f"{path}: damaged, or not the state of this run ({words}); start again with --overwrite"
    )


def _require_plain(state: Any) -> None:
    if not isinstance(state, dict):
        raise TypeError(f"found a {type(state).__name__}")
    for name in _TENSORS:
        if not all(isinstance(tensor, Tensor) for tensor in state[name].values()):
            raise TypeError(f"{name} is no dict of tensors")
    for name in _NUMBERS:
        if type(state[name]) not in (int, float) or not 0 <= state[name] < float("inf"):
            raise ValueError(f"{name} is no number of such a kind")
    if type(state["step"]) is not int:
        raise TypeError("step is no whole number")
