"""A process that ends between two changes to the file system, as if by SIGKILL."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up after it."""


def kill_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """End the process before its change number ``number`` to a name in the file system."""
    changes = 0

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal changes
            if changes >= number:
                raise Killed
            changes += 1
            return change(*args, **options)

        return call

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if changes < number:
            remove_folder(path, ignore_errors=ignore_errors)

    remove_folder = shutil.rmtree
    patch.setattr(os, "replace", dying(os.replace))
    for name in ("replace", "rename", "unlink"):
        patch.setattr(Path, name, dying(getattr(Path, name)))
    patch.setattr(shutil, "rmtree", rmtree)
