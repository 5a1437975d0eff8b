"""Named random streams: every draw comes from a generator derived from (seed, names).

Streams are stateless: the draws of batch 7 or of step 1200 do not depend on what was drawn
before, so a resumed run continues with the numbers of an uninterrupted one, with no generator
state to save.
"""

import hashlib
import json

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on ``seed`` and the stream's ``names`` alone."""
    text = json.dumps([seed, *names])  # unambiguous: 1 is not "1", and no name holds a separator
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator at the start of the stream ``names`` of ``seed``.

    It lives on the CPU on purpose: draws are then the same whatever the device computes on.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *names))
