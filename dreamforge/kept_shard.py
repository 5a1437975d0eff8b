"""A shard that an interrupted command has left, where it is what would be written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.dreams import DreamBatch
from shared.errors import DreamSetError
from shared.manifest import parse_json
from shared.shards import read_shard, read_shard_attributes


def read_kept(
    shard: Path, attributes: Mapping[str, Any], start: int, num_images: int
) -> DreamBatch | None:
    """Return the rows of a shard that is whole; None if there is none.

    Args:
        shard: Where it would be.
        attributes: Those that it would have been written with.
        start: Number of its first row.
        num_images: How many it would hold.
    """
    if shard.is_symlink() or not shard.is_file():
        return None
    try:
        found = read_shard_attributes(shard)
        dreams = read_shard(shard)
        synthesis = parse_json(str(found.get("synthesis")).encode())
    except DreamSetError:  # damaged since: it is made again
        return None
    same = {**found, "synthesis": synthesis}
    if any(same.get(name) != value for name, value in attributes.items()):
        return None
    is_it = len(dreams) == num_images and int(dreams.batch[0]) == start
    return dreams if is_it else None
