"""What ``--out`` may replace: dream sets and what is left of them, and never an input."""

from collections.abc import Iterable
from pathlib import Path

from shared.errors import ConfigError
from shared.opener import was_dream_set


def refuse_inputs(out: Path, inputs: Iterable[Path | str | None]) -> None:
    """Check that writing a set at ``out`` leaves the command's inputs alone.

    Args:
        out: Of the index.
        inputs: Files and folders that the command reads; None for one that is no file.

    Raises:
        ConfigError: If ``out`` is one of them, under whatever name.
    """
    for path in inputs:
        if path is not None and _is_same(out, Path(path)):
            raise ConfigError(f"{out}: is what the set is to be made from; choose another --out")


def refuse_to_lose(paths: Iterable[Path]) -> None:
    """Check files that ``--overwrite`` is about to remove; those that are not there are fine.

    Raises:
        ConfigError: If one is no dream set, nor a part of one, damaged or not.
    """
    for path in paths:
        if path.is_dir():
            raise ConfigError(
                f"{path}: a folder, expected the file of an index; choose another --out"
            )
        if not was_dream_set(path):
            raise ConfigError(
                f"{path}: is there already and no dream set, so --overwrite leaves it alone; "
                "remove it yourself, or choose another --out"
            )


def _is_same(a: Path, b: Path) -> bool:
    """Tell whether two paths lead to the same file, also by links."""
    try:
        return a.samefile(b)
    except OSError:  # one is not there
        return a.resolve() == b.resolve()
