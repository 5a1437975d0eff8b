"""What ``--out`` may replace: a dream set and what is left of it, never an input or another set."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamSetError
from shared.opener import holds_manifest, was_dream_set
from shared.shards import read_index

_DIGITS = "[0-9]" * 5


def shards_at(out: Path) -> list[Path]:
    """Return whatever files beside ``out`` are called like its shards, sorted by name."""
    return sorted(out.parent.glob(f"{glob.escape(out.stem)}-{_DIGITS}-of-{_DIGITS}.h5"))


def files_of(dreams: DreamSet) -> tuple[Path, ...]:
    """Return the files that a set is read from: its index and its shards."""
    return (dreams.path, *(dreams.shard_path(number) for number in range(dreams.num_shards)))


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


def refuse_sources(changed: Iterable[Path], sources: Iterable[Path]) -> None:
    """Check files that are about to be written or removed against those that are read.

    Args:
        changed: Those that are not there are fine.
        sources: Files, whose names may differ from those in ``changed`` (links).

    Raises:
        ConfigError: If a file is among both.
    """
    read = {_identity(path): path for path in sources}
    for path in changed:
        identity = _identity(path)
        if identity is not None and identity in read:
            raise ConfigError(
                f"{path}: belongs to one of the sets to read ({read[identity].name}); "
                "choose another --out"
            )


def refuse_to_lose(out: Path, shards: Sequence[Path]) -> None:
    """Check files that ``--overwrite`` is about to remove; those that are not there are fine.

    Args:
        out: Of the index.
        shards: Those beside it to remove.

    Raises:
        ConfigError: If one is no dream set, nor a part of one, damaged or not; or if one is a set
            of its own, or belongs to the set of another index in the folder.
    """
    for path in (out, *shards):
        if path.is_dir():
            raise ConfigError(
                f"{path}: a folder, expected the file of an index; choose another --out"
            )
        if not was_dream_set(path):
            raise ConfigError(
                f"{path}: is there already and no dream set, so --overwrite leaves it alone; "
                "remove it yourself, or choose another --out"
            )
    for path in shards:
        if holds_manifest(path):
            raise ConfigError(
                f"{path}: called like a shard of {out.name}, but a set of its own, so --overwrite "
                "leaves it alone; choose another --out"
            )
    _refuse_parts_of_others(out, shards)


def _refuse_parts_of_others(out: Path, shards: Sequence[Path]) -> None:
    """Raise ConfigError if another index in the folder, perhaps a renamed one, names the files."""
    removed = {path.name for path in (out, *shards) if path.exists()}
    if not removed:
        return
    for other in sorted(out.parent.iterdir()):
        if other.name in removed or other.name.startswith(".") or not holds_manifest(other):
            continue
        if _is_link_to(out, other):  # it leads to the new set as it led to this one
            continue
        try:
            shards_of_other = read_index(other).manifest.shards
        except DreamSetError:  # of a damaged index nobody knows the shards
            continue
        named = {os.fsdecode(shard.name.encode()) for shard in shards_of_other}
        if shared := sorted(removed & named):
            raise ConfigError(
                f"{out.with_name(shared[0])}: belongs to {other.name}, so --overwrite leaves it "
                "alone; choose another --out"
            )


def _is_link_to(out: Path, other: Path) -> bool:
    """Tell whether ``other`` is a symbolic link to what has the name ``out``, no link itself."""
    return other.is_symlink() and other.resolve() == out.parent.resolve() / out.name


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # it is not there
        return None
    return status.st_dev, status.st_ino


def _is_same(a: Path, b: Path) -> bool:
    """Tell whether two paths lead to the same file, also by links."""
    try:
        return a.samefile(b)
    except OSError:  # one is not there
        return a.resolve() == b.resolve()
