"""Which of several workers this process is: torchrun, an explicit share, or alone.

Workers share nothing: each makes whole shards, and whoever finds the set complete writes the
index. There are no collectives and no locks, so a dead worker costs its own shards only.
"""

import os

from dreamforge.plan import Worker
from shared.errors import ConfigError


def find_worker(text: str | None) -> tuple[Worker, int | None]:
    """Return this process's share, and its rank on this machine if a launcher gave one.

    Args:
        text: ``--worker``'s value. SLURM arrays pass
            ``--worker ${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}``.

    Raises:
        ConfigError: If the share is malformed, or torchrun's variables are.
    """
    if text is not None:
        return Worker.parse(text), None
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return Worker(), None
    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise ConfigError(
            "RANK, WORLD_SIZE, LOCAL_RANK: expected integers from torchrun"
        ) from error
    return Worker(index=rank, count=count), local_rank
