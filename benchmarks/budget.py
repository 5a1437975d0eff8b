"""What decides the figures in a folder: recorded by the first command, held by those after it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import IncompatibleError, InputFileError
from shared.files import write_json


def claim_budget(folder: Path, budget: Mapping[str, Any]) -> None:
    """Record the budget of a folder, so that figures of two never end up in one table.

    Args:
        folder: Made if need be.
        budget: JSON scalars by option, with ``_`` for ``-``.

    Raises:
        IncompatibleError: If the folder was begun with another one.
        InputFileError: If its record cannot be read.
    """
    path = folder / "budget.json"
    before = read_record(path, "budget") if path.exists() else budget
    for name, value in budget.items():
        if before.get(name) != value:
            raise IncompatibleError(
                f"{folder}: begun with --{name.replace('_', '-')} {before.get(name)!r}, now "
                f"{value!r}; repeat the first command, or choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(budget))


def read_record(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object that an earlier command left in ``path``.

    Args:
        path: Is there.
        what: It is, for the message.

    Raises:
        InputFileError: If it cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path}: not readable ({error}); remove it, or the folder") from error
    if not isinstance(found, dict):
        raise InputFileError(f"{path}: not the {what} of a benchmark; choose another --out")
    return found
