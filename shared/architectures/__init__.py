"""Architectures by name, and finding the one that a checkpoint's tensors belong to."""

from shared.architectures.candidate import Candidate, Preprocessing
from shared.architectures.catalog import (
    ARCHITECTURES,
    build_network,
    find_candidate,
    is_factory,
)
from shared.architectures.identify import (
    Match,
    comparable,
    identify,
    match_candidate,
    require_batch_norm,
)
from shared.architectures.skeleton import build_skeleton, set_input_channels

__all__ = [
    "ARCHITECTURES",
    "Candidate",
    "Match",
    "Preprocessing",
    "build_network",
    "build_skeleton",
    "comparable",
    "find_candidate",
    "identify",
    "is_factory",
    "match_candidate",
    "require_batch_norm",
    "set_input_channels",
]
