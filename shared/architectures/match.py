"""Do these tensors fit this architecture: as it is, changed, or under other names?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from shared.architectures.candidate import Candidate
from shared.architectures.catalog import is_factory
from shared.architectures.changes import changed, find_change
from shared.architectures.renaming import renamed_by_position
from shared.architectures.skeleton import (
    build_for_names,
    build_skeleton,
    first_convolution,
    set_input_channels,
)
from shared.architectures.widths import resize
from shared.errors import CheckpointError, ConfigError
from shared.statedict import with_plain_names

# Candidates are built for this many classes: a prime that is no layer's width, so the tensors
# of the head are exactly those whose first dimension it is.
_PROBE_CLASSES = 977


class NoFitError(CheckpointError):
    """Tensors that do not fit; ``num_wrong`` of them, or of the architecture's, are the reason."""

    def __init__(self, message: str, num_wrong: int) -> None:
        """Keep the number: of several such errors, that with the smallest says most."""
        super().__init__(message)
        self.num_wrong = num_wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An architecture that fits the tensors of a checkpoint.

    Attributes:
        candidate: What builds it.
        num_classes: Read from the head.
        in_channels: Read from the first convolution.
        assumptions: What the tensors could not tell, one sentence each.
        rivals: Others that fit as well.
    """

    candidate: Candidate
    num_classes: int
    in_channels: int
    assumptions: tuple[str, ...] = ()
    rivals: tuple["Match", ...] = ()

    @property
    def architecture(self) -> str:
        """Its catalog name."""
        return self.candidate.name


def match_candidate(candidate: Candidate, tensors: Mapping[str, Tensor]) -> Match:
    """Return number of classes and input channels if the tensors fit the candidate.

    Raises:
        NoFitError: Naming the first tensor that does not fit.
        ConfigError: If it is somebody's factory, and does not work.
    """
    skeleton = _skeleton(candidate, tensors)
    state = skeleton.state_dict()
    expected = comparable(with_plain_names(state))
    found = comparable(tensors, left_out=candidate.left_out)
    _compare_names(candidate.name, expected, found)
    stem = first_convolution(skeleton)
    # Prefixes are stripped from all names or none, so position finds the name again. It has none
    # where the weight is computed from other tensors, as with a weight norm.
    plain = dict(zip(state, with_plain_names(state), strict=True))
    stem_weight = plain.get(f"{stem[0]}.weight", "") if stem else ""
    num_classes: set[int] = set()
    for name, shape in expected.items():
        actual = found[name]
        if shape[:1] == (_PROBE_CLASSES,) and actual:
            num_classes.add(actual[0])
            shape = (actual[0], *shape[1:])
        if name == stem_weight and len(actual) == 4:
            shape = (shape[0], actual[1], *shape[2:])
        if shape != actual:
            raise NoFitError(f"{candidate.name}: {name} is {actual}, expected {shape}", 1)
    if not num_classes:  # a factory of one's own with a fixed head, defined last
        num_classes = {*list(expected.values())[-1][:1]}
    if len(num_classes) != 1:
        raise NoFitError(f"{candidate.name}: heads of {sorted(num_classes)} classes", 1)
    in_channels = found[stem_weight][1] if stem_weight else stem[1].in_channels if stem else 3
    return Match(candidate=candidate, num_classes=num_classes.pop(), in_channels=in_channels)


def match_changed(candidate: Candidate, tensors: Mapping[str, Tensor]) -> Match | None:
    """Return a match with the candidate as somebody has changed it: another head, other biases.

    None where no such change explains the names.

    Raises:
        NoFitError: If shapes do not fit, or the tensors leave doubt what was built.
    """
    shapes = comparable(tensors, left_out=candidate.left_out)
    change = None if is_factory(candidate.name) else find_change(candidate, shapes)
    if change is None:
        return None
    match = match_candidate(changed(candidate, change), tensors)
    if change.doubt():
        raise NoFitError(f"{candidate.name}: {change.doubt()}", 1)
    notes = tuple(f"took {candidate.name}, but {note}" for note in change.notes())
    return replace(match, assumptions=(*match.assumptions, *notes))


def match_resized(candidate: Candidate, tensors: Mapping[str, Tensor]) -> Match:
    """Return a match with the candidate's layers, of the widths that the tensors have.

    Raises:
        NoFitError: If names, kernels or numbers of dimensions are others, or the widths of layers
            that follow each other do not fit.
        ConfigError: If it is somebody's factory, and does not work.
    """
    skeleton = _skeleton(candidate, tensors)
    found = comparable(tensors, left_out=candidate.left_out)
    usual = comparable(with_plain_names(skeleton.state_dict()))
    _compare_names(candidate.name, usual, found)
    resized_candidate = replace(candidate, build=partial(_build_resized, candidate, found))
    try:
        match = match_candidate(resized_candidate, tensors)
        _require_flow(match)
    except ValueError as error:
        raise NoFitError(f"{candidate.name}: {error}", 1) from error
    others = [name for name, shape in usual.items() if shape != found[name]]
    first = next((name for name in others if usual[name][0] != _PROBE_CLASSES), others[0])
    note = (
        f"took {candidate.name}, but with other widths: {first} is {found[first]} instead of "
        f"{usual[first]}"
    )
    return replace(match, assumptions=(*match.assumptions, note))


def _require_flow(match: Match) -> None:
    """Raise ValueError if what one layer makes is not what the next one takes; of no factory."""
    if is_factory(match.architecture):
        return
    network = build_skeleton(lambda: match.candidate.build(match.num_classes)).eval()
    set_input_channels(network, match.in_channels)
    size = match.candidate.usual().size
    images = torch.empty(2, match.in_channels, *size, device="meta")
    try:
        with torch.no_grad():
            network(images)
    except Exception as error:  # whatever its forward may raise
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"its layers do not fit each other ({reason})") from error


def _build_resized(
    candidate: Candidate, shapes: Mapping[str, tuple[int, ...]], num_classes: int
) -> nn.Module:
    network = candidate.build(num_classes)
    names = zip(with_plain_names(network.state_dict()), network.state_dict(), strict=True)
    resize(network, {own: torch.zeros(shapes[name]) for name, own in names if name in shapes})
    return network


def match_by_position(
    candidate: Candidate, tensors: Mapping[str, Tensor]
) -> tuple[Match, dict[str, Tensor]]:
    """Return a match of tensors under other names, and the tensors under the candidate's names.

    Only for an architecture that somebody has named: padding and activations have no tensors.

    Raises:
        NoFitError: If roles or shapes are others, or come in another order.
        ConfigError: If it is somebody's factory, and does not work.
    """
    renamed = renamed_by_position(_skeleton(candidate, tensors), tensors)
    if renamed is None:
        raise NoFitError(
            f"{candidate.name}: its tensors come in another order", len(comparable(tensors))
        )
    match = match_candidate(candidate, renamed)
    pairs = zip(renamed, comparable(tensors), strict=True)
    ours, theirs = next(pair for pair in pairs if pair[0] != pair[1])
    sentence = (
        f"the file's names are not those of {candidate.name} ({theirs[:60]!r} is {ours}): took "
        f"all {len(renamed)} tensors in their order, since their shapes fit"
    )
    return replace(match, assumptions=(*match.assumptions, sentence)), renamed


def comparable(
    tensors: Mapping[str, Tensor], left_out: tuple[str, ...] = ()
) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name, without counters that old files lack and without ``left_out``."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked") and not name.startswith(left_out or ("\0",))
    }


def _skeleton(candidate: Candidate, tensors: Mapping[str, Tensor]) -> nn.Module:
    try:
        return build_for_names(lambda: candidate.build(_PROBE_CLASSES))
    except ConfigError:  # somebody's factory, which may take its own numbers of classes only
        num_classes = next(
            (shape[0] for shape in reversed(comparable(tensors).values()) if shape), 1
        )
        return build_for_names(lambda: candidate.build(num_classes))


def _compare_names(
    architecture: str, expected: Mapping[str, object], found: Mapping[str, object]
) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    said = []
    if missing:
        said.append(
            f"{len(missing)} of its {len(expected)} tensors are missing, first {missing[0]}"
        )
    if extra:
        said.append(f"{len(extra)} tensors too many, first {extra[0][:80]!r}")
    if said:
        raise NoFitError(f"{architecture}: {'; '.join(said)}", len(missing) + len(extra))
