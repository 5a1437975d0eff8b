"""Weights become a network: which of a file's tensors, which architecture, which answers."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from shared.architectures import (
    Match,
    NoFitError,
    build_in_memory,
    build_skeleton,
    find_candidate,
    fit_by_position,
    has_values_of_its_own,
    identify,
    is_factory,
    match_by_position,
    match_candidate,
    match_changed,
    match_resized,
    set_input_channels,
    suggestion,
    transformers_models,
)
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, IncompatibleError
from shared.facts import Facts
from shared.misfit import CLEARLY, misfit
from shared.odd_layers import replace_odd_norms
from shared.statedict import (
    problem_of,
    strip_prefixes,
    under_shared_prefix,
    without_companions,
)
from shared.ties import shared_names, tie


def find_architecture(
    checkpoint: Checkpoint, facts: Facts, origin: str, *, suggests: bool = True
) -> tuple[Match, Mapping[str, Tensor]]:
    """Return what the weights belong to, and those among them that do.

    Args:
        checkpoint: Weights, perhaps of more than the network.
        facts: Says the architecture, or what helps to find it.
        origin: Names the checkpoint in errors.
        suggests: Whether an error says what would fit under other names, which takes seconds.

    Raises:
        NoFitError: If they fit no architecture, or not the one that is named.
        CheckpointError: If only the file names it, and it is somebody's code.
        ConfigError: If there is no such architecture, or somebody's factory does not work.
        IncompatibleError: If the dream set alone names it, and they do not fit.
    """
    name = facts.architecture()

    def fit(tensors: Mapping[str, Tensor]) -> Match:
        if name is None:
            return identify(tensors, facts.hint(checkpoint.path), facts.find("image_size"))
        candidate = find_candidate(name)
        try:
            return match_candidate(candidate, tensors)
        except NoFitError:
            if changed := match_changed(candidate, tensors):
                return changed
            with suppress(NoFitError):
                return match_resized(candidate, tensors)
            raise

    refusals: list[NoFitError] = []
    try:
        return fit(checkpoint.tensors), checkpoint.tensors
    except NoFitError as error:
        refusals.append(error)
    for prefix, tensors in under_shared_prefix(checkpoint.tensors):
        try:
            match = fit(tensors)
        except NoFitError as error:
            refusals.append(error)
            continue
        left_out = [each for each in checkpoint.tensors.items() if not each[0].startswith(prefix)]
        if name is None:
            _refuse_part(match, prefix, dict(left_out))
        return _with_left_out(match, prefix, [left for left, _ in left_out]), tensors
    # Somebody's own module may be all of it, and says itself what it lacks.
    smaller = None
    if name is None or not is_factory(name):
        smaller = without_companions(checkpoint.tensors)
    if smaller is not None:
        left, note = smaller
        smaller_one = replace(checkpoint, tensors=left)
        match, own = find_architecture(smaller_one, facts, origin, suggests=suggests)
        return replace(match, assumptions=(*match.assumptions, note)), own
    nearest = min(refusals, key=lambda refusal: refusal.num_wrong)
    if name is not None:
        if name.startswith(transformers_models.PREFIX):
            loaded = transformers_models.as_loaded(name, checkpoint.tensors)
            if loaded.tensors is not None:
                return match_candidate(find_candidate(name), loaded.tensors), loaded.tensors
            if 0 < len(loaded.wrong) < nearest.num_wrong:
                more = f"; {len(loaded.wrong) - 1} more" if len(loaded.wrong) > 1 else ""
                nearest = NoFitError(f"{name[:80]}: {loaded.wrong[0]}{more}", len(loaded.wrong))
        with suppress(NoFitError):
            return match_by_position(find_candidate(name), checkpoint.tensors)
    elif suggests and nearest.num_wrong > 1:
        # What one tensor keeps from fitting is no other network.
        found = fit_by_position(checkpoint.tensors, facts.hint(checkpoint.path))
        if found:
            raise CheckpointError(_suggestion(found, facts))
    if facts.is_only_in_set("architecture"):
        raise IncompatibleError(
            f"{origin}: {_what_it_is(checkpoint)}, and the dreams were made from a {name}: another "
            f"network ({nearest}); pass the teacher that the dreams were made from"
        )
    raise nearest if name is None or is_factory(name) else _advising(nearest)


def _advising(refusal: NoFitError) -> NoFitError:
    """Say what helps where a network of that name was built with arguments of its own."""
    factory = "package.module:factory"
    if factory in str(refusal):
        return refusal
    return NoFitError(
        f"{refusal}; where it was built with other arguments (another image size, say): a factory "
        f"of your own that does so, --arch {factory}",
        refusal.num_wrong,
    )


def told_apart(match: Match, tensors: Mapping[str, Tensor], facts: Facts) -> Match:
    """Return the match, or a rival that gives BatchNorm layers more of what they remember, aloud.

    Args:
        match: Of tensors that rivals fit, too.
        tensors: Those that belong to the network.
        facts: Say the image size.
    """
    if not match.rivals:
        return match
    distances = [_misfit(each, tensors, facts) for each in (match, *match.rivals)]
    ours, theirs = distances[0], min(distances[1:])
    if not theirs * CLEARLY < ours:
        return match
    rival = match.rivals[distances.index(theirs) - 1]
    sentence = (
        f"the tensors fit {match.architecture} and {rival.architecture}: took "
        f"{rival.architecture}, whose BatchNorm layers get what they remember (distance "
        f"{theirs:.2g}, as a {match.architecture} {ours:.2g}); --arch says otherwise"
    )
    return replace(rival, assumptions=(*rival.assumptions, sentence))


def _suggestion(found: Sequence[tuple[Match, Mapping[str, Tensor]]], facts: Facts) -> str:
    """Say what fits, that first which gives BatchNorm layers what they remember."""
    names = [match.architecture for match, _ in found]
    if len(found) == 1:
        return suggestion(names)
    distances = [_misfit(match, tensors, facts) for match, tensors in found]
    least, second = sorted(distances)[:2]
    if not least * CLEARLY < second:
        return suggestion(names)
    best = names.pop(distances.index(least))
    return suggestion([best, *names], is_told=True)


def _misfit(match: Match, tensors: Mapping[str, Tensor], facts: Facts) -> float:
    size = facts.find("image_size") or match.candidate.usual().size
    if len(size) != 2 or min(size) < 1:  # which is refused later
        return math.inf
    network, _ = build_around(match, tensors)
    return misfit(network.eval(), (match.in_channels, int(size[0]), int(size[1])))


def build_around(match: Match, tensors: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]]:
    """Return the network with copies of the tensors, float32 as a rule, and notes.

    It is not initialised first, where that can be helped.

    Raises:
        CheckpointError: If tensors differ that are one and the same in the network, or cannot be
            what it has: whole numbers for weights, or numbers too large.
    """
    replaced: list[str] = []

    def build() -> nn.Module:
        network = match.candidate.build(match.num_classes)
        set_input_channels(network, match.in_channels)
        replaced[:] = replace_odd_norms(network)
        return network

    # What somebody's constructor computes, apart from weights, is needed as it is.
    network = (build_in_memory if is_factory(match.architecture) else build_skeleton)(build)
    if has_values_of_its_own(network):
        network = build_in_memory(build)
    expected = network.state_dict()
    # A network of one's own may have a prefix that the checkpoint's names were freed of.
    plain = dict(zip(strip_prefixes(list(expected)), expected, strict=True))
    weights = {
        plain[name]: _as_dtype(name, tensor, expected[plain[name]].dtype)
        for name, tensor in tensors.items()
        if name in plain
    }
    counters = {
        name: torch.zeros((), dtype=torch.int64) for name in expected if name not in weights
    }
    state = OrderedDict(weights | counters)
    # MNASNet refuses weights that do not say of which version of its code they are: of this one.
    state._metadata = expected._metadata  # type: ignore[attr-defined]
    shared = shared_names(network)
    network.load_state_dict(state, strict=True, assign=True)
    tie(network, shared)
    return network, replaced


def _as_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of the tensor in a network's ``dtype``."""
    if dtype.is_floating_point and not tensor.is_floating_point():
        raise CheckpointError(
            f"tensor {name[:80]!r} is {tensor.dtype}, expected floating-point numbers, which the "
            "network computes with: of a quantised one pass the file from before that"
        )
    converted = tensor.to(dtype, copy=True).contiguous()
    # As it was in the file it has been looked at.
    if tensor.dtype == torch.float64 and problem_of(converted):
        raise CheckpointError(
            f"tensor {name[:80]!r} has values beyond what float32 holds, expected weights of a "
            "network that was trained in it; the training that wrote them had diverged"
        )
    return converted


def _refuse_part(match: Match, prefix: str, left_out: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a layer beside the network takes what it answers."""
    for name, tensor in left_out.items():
        if name.endswith(".weight") and tensor.shape[1:] == (match.num_classes,):
            layer = name.removesuffix(".weight")
            raise CheckpointError(
                f"under {prefix!r} is a {match.architecture} of {match.num_classes} classes, and "
                f"beside it {layer[:60]!r}, which makes {len(tensor)} of them: a larger network; "
                "write a factory that builds all of it, --arch package.module:factory (--arch "
                f"{match.architecture} takes the part alone)"
            )


def _with_left_out(match: Match, prefix: str, left_out: Sequence[str]) -> Match:
    if not left_out:
        return match
    note = (
        f"left out {len(left_out)} tensors beside the network, whose names begin with {prefix!r}; "
        f"the first is {left_out[0][:60]!r}"
    )
    return replace(match, assumptions=(*match.assumptions, note))


def _what_it_is(checkpoint: Checkpoint) -> str:
    try:
        return f"holds a {identify(checkpoint.tensors).architecture}"
    except CheckpointError:
        return "holds other tensors"
