"""Architectures by name, and finding the one that a checkpoint's tensors belong to."""

from shared.architectures.candidate import Candidate, Preprocessing
from shared.architectures.catalog import (
    ARCHITECTURES,
    build_network,
    find_candidate,
    is_factory,
)
from shared.architectures.held import held
from shared.architectures.identify import (
    fit_by_position,
    identify,
    require_batch_norm,
    suggestion,
)
from shared.architectures.match import (
    Match,
    NoFitError,
    comparable,
    match_by_position,
    match_candidate,
    match_changed,
    match_resized,
)
from shared.architectures.skeleton import (
    build_in_memory,
    build_skeleton,
    has_values_of_its_own,
    set_input_channels,
)
from shared.architectures.widths import resize, rigid_tensors

__all__ = [
    "ARCHITECTURES",
    "Candidate",
    "Match",
    "NoFitError",
    "Preprocessing",
    "build_in_memory",
    "build_network",
    "build_skeleton",
    "comparable",
    "find_candidate",
    "fit_by_position",
    "has_values_of_its_own",
    "held",
    "identify",
    "is_factory",
    "match_by_position",
    "match_candidate",
    "match_changed",
    "match_resized",
    "require_batch_norm",
    "resize",
    "rigid_tensors",
    "set_input_channels",
    "suggestion",
]
