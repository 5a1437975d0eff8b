"""Which architecture do these tensors belong to? Names and shapes decide."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache

from torch import Tensor

from shared.architectures.candidate import Candidate
from shared.architectures.catalog import ARCHITECTURES, find_candidate, timm_names
from shared.architectures.match import (
    Match,
    NoFitError,
    match_by_position,
    match_candidate,
    match_changed,
    match_resized,
)
from shared.architectures.renaming import roles
from shared.architectures.skeleton import build_for_names
from shared.errors import CheckpointError

_SMALL_IMAGE = 64  # pixels; below it the CIFAR version of a network is the likelier one


def identify(
    tensors: Mapping[str, Tensor], hint: str = "", image_size: tuple[int, int] | None = None
) -> Match:
    """Return the architecture of a state dict.

    Args:
        tensors: Names without wrappers' prefixes (see :func:`shared.statedict.strip_prefixes`).
        hint: Text that may hold the architecture's name, such as the file name; it decides only
            between architectures that fit equally well.
        image_size: ``(H, W)`` where known; it decides between a network and its CIFAR version.

    Raises:
        CheckpointError: If nothing fits, with what came nearest.
    """
    marked = [each for each in ARCHITECTURES.values() if _has_marker(each, tensors)]
    matches, reasons = _try(marked, tensors, match_candidate)
    if not matches:
        hinted = [find_candidate(f"timm:{name}") for name in _hinted_timm_names(hint)]
        matches, more = _try(hinted, tensors, match_candidate)
        reasons += more
        if not matches:
            matches, more = _try([*marked, *hinted], tensors, match_changed)
            reasons += more
        if not matches:
            named = [
                each
                for each in ARCHITECTURES.values()
                if _has_marker(each, tensors, of_any_width=True)
            ]
            matches, _ = _try([*named, *hinted], tensors, match_resized)
    if not matches:
        raise _nothing_fits(tensors, reasons)
    return _choose(matches, hint, image_size)


def require_batch_norm(tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if the tensors hold no BatchNorm statistics."""
    if not any(name.rpartition(".")[2] == "running_mean" for name in tensors):
        raise CheckpointError(
            f"no BatchNorm statistics (running_mean) among {len(tensors)} tensors: inversion "
            "matches what BatchNorm layers remember, so it needs a network that has them (where "
            "they were fused into the convolutions for speed: the file from before that); for a "
            "network without, `dreamforge import` makes a set of a folder of images, and "
            "`dreamforge draw` one of drawn scenes"
        )


def _try(
    candidates: Iterable[Candidate],
    tensors: Mapping[str, Tensor],
    match: Callable[[Candidate, Mapping[str, Tensor]], Match | None],
) -> tuple[list[Match], list[NoFitError]]:
    """Return the candidates that fit, and why the others do not."""
    matches: list[Match] = []
    reasons: list[NoFitError] = []
    for candidate in candidates:
        try:
            found = match(candidate, tensors)
        except NoFitError as error:
            reasons.append(error)
        else:
            matches += [] if found is None else [found]
    return matches, reasons


def _has_marker(
    candidate: Candidate, tensors: Mapping[str, Tensor], *, of_any_width: bool = False
) -> bool:
    if candidate.marker is None:
        return True
    name, size = candidate.marker
    return name in tensors and (of_any_width or tuple(tensors[name].shape[:1]) == (size,))


def _choose(found: list[Match], hint: str, image_size: tuple[int, int] | None) -> Match:
    matches = [match for match in found if not match.candidate.is_rare]
    best, sentences = _likeliest(matches, hint, image_size)
    rivals = tuple(match for match in found if match is not best)
    return replace(best, assumptions=(*best.assumptions, *sentences), rivals=rivals)


def _likeliest(
    matches: list[Match], hint: str, image_size: tuple[int, int] | None
) -> tuple[Match, list[str]]:
    if len(matches) == 1:
        return matches[0], []
    if image_size is not None:
        small = max(image_size) <= _SMALL_IMAGE
        why = f"images are {image_size[0]}x{image_size[1]}"
    else:
        small = "cifar" in _plain(hint)
        why = ""

    def distance(match: Match) -> tuple[bool, bool]:
        name = match.architecture
        return name.startswith("cifar_") != small, _plain(name) not in _plain(hint)

    best = min(matches, key=distance)  # the first of equals: catalog order
    if not why:
        is_named = any(distance(best) < distance(match) for match in matches)
        is_named &= small or _plain(best.architecture) in _plain(hint)
        why = f"of the name {hint!r}" if is_named else "it is the more common one"
    others = " or ".join(match.architecture for match in matches if match is not best)
    sentence = (
        f"the tensors fit {best.architecture} and {others}: took {best.architecture} because "
        f"{why}; --arch says otherwise"
    )
    return best, [sentence]


def suggestion(fitting: list[str], *, is_told: bool = False) -> str:
    """Say which known architectures some tensors fit under other names.

    Args:
        fitting: Their names, the best one first.
        is_told: BatchNorm statistics fit the first one only.
    """
    best, *others = fitting
    which = f"{best} has"
    if is_told:
        which = (
            f"{best} (rather than {' or '.join(others)}: its BatchNorm layers get what they "
            "remember) has"
        )
    elif others:
        names = " and ".join(fitting)
        which = f"{names} (alike in tensors, not in padding or activations) have"
    return (
        f"no known architecture has tensors of these names, but {which} as many of the same "
        f"shapes in the same order: where that is the network, --arch {best} takes them in "
        "their order"
    )


def fit_by_position(
    tensors: Mapping[str, Tensor], hint: str = ""
) -> list[tuple[Match, dict[str, Tensor]]]:
    """Return what the tensors fit under other names, with the tensors under those names.

    It builds all known architectures, which takes seconds, once per process: for when nothing else
    has fitted.
    """
    found = roles(tensors)
    names = list(_hinted_timm_names(hint))
    known = set(timm_names())
    # TensorFlow's padding differs, and so timm has many a network twice.
    names += [f"tf_{name}" for name in names if f"tf_{name}" in known]
    timm = [find_candidate(f"timm:{name}") for name in names]
    fitting = []
    likely = [each for name, each in ARCHITECTURES.items() if _roles_of(name) == found]
    for candidate in (*likely, *timm):
        with suppress(NoFitError):
            fitting.append(match_by_position(candidate, tensors))
    return fitting


@cache
def _roles_of(name: str) -> list[str]:
    return roles(build_for_names(lambda: ARCHITECTURES[name].build(2)).state_dict())


def _hinted_timm_names(hint: str) -> Iterator[str]:
    plain_hint = _plain(hint)
    if not plain_hint:
        return
    names = [name for name in timm_names() if _plain(name) in plain_hint]
    yield from sorted(names, key=len, reverse=True)[:3]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _nothing_fits(tensors: Mapping[str, Tensor], reasons: list[NoFitError]) -> NoFitError:
    if reasons:
        nearest = min(reasons, key=lambda reason: reason.num_wrong)
        advice = "; for a network of your own: --arch package.module:factory"
        advice = "" if "package.module:factory" in str(nearest) else advice
        return NoFitError(
            f"no known architecture has these tensors; nearest is {nearest}{advice}",
            nearest.num_wrong,
        )
    names = ", ".join(repr(name[:60]) for name in list(tensors)[:2])
    advice = "name it with --arch: a torchvision name, timm:NAME or package.module:factory"
    if any(".normalization." in name or ".embeddings." in name for name in tensors):
        advice = (
            "these are names of transformers: put config.json beside model.safetensors, or give "
            "the folder that has both"
        )
    return NoFitError(
        f"no known architecture has these {len(tensors)} tensors ({names} ...); {advice}",
        sys.maxsize,  # of a part of the tensors this says no more than of all
    )
