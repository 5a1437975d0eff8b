"""The state dict inside what a file holds: unwrapped, its names plain, its tensors sound."""

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from shared.errors import CheckpointError

# Where training scripts keep the weights; plain ones before moving averages.
NESTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
)
_MAX_NESTING = 4
# What first parts of names call an average of the network, and what is no part of it at all.
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|averaged?)(_|$)", re.IGNORECASE)
_BESIDE = re.compile(r"loss|criterion|metric", re.IGNORECASE)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def unnest(value: Any, origin: str) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """Return the state dict inside ``value``, the plain values beside it, and notes.

    Args:
        value: What a pickle held: a state dict, or dicts around one, as training scripts write.
        origin: Names the file in errors.

    Returns:
        The third says which weights were taken where there are others, too.

    Raises:
        CheckpointError: If it is no dict at all, or one of several networks.
    """
    metadata: dict[str, Any] = {}
    notes: list[str] = []
    for _ in range(_MAX_NESTING):  # a pickle can hold itself
        if not isinstance(value, Mapping):
            break
        metadata |= _plain_values(value)
        nest = next((key for key in NESTS if isinstance(value.get(key), Mapping)), None)
        if nest is None:
            nest = _only_network(value, origin)
            if nest is None:
                break
            notes.append(f"took the weights under {nest[:60]!r}")
        notes += _chosen(value, nest)
        value = value[nest]
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{origin}: holds a {type(value).__name__}, expected a state dict: names and tensors"
        )
    tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
    tensors.pop("n_averaged", None)  # torch.optim.swa_utils.AveragedModel
    return tensors, metadata, tuple(notes)


def _chosen(record: Mapping[Any, Any], nest: str) -> list[str]:
    """Say so where another key holds a network's weights, too."""
    own = _shapes_in(record[nest])
    others = [
        str(key)
        for key, value in record.items()
        if key != nest and isinstance(value, Mapping)
        if _has_norms(value) or (len(own) > 1 and _shapes_in(value) == own)
    ]
    if not others:
        return []
    return [
        f"took the weights under {nest!r}; {others[0][:60]!r} has some, too: to use those, "
        f"torch.save(torch.load(PATH)[{others[0][:60]!r}], NEW) and pass NEW"
    ]


def _only_network(record: Mapping[Any, Any], origin: str) -> str | None:
    """Return the key, whatever its name, under which the only state dict in ``record`` is.

    None where there is no such key, or where ``record`` is the state dict.
    """
    if any(isinstance(key, str) and key.endswith("running_mean") for key in record):
        return None
    inside = {key: value for key, value in record.items() if isinstance(value, Mapping)}
    found = [key for key, value in inside.items() if _has_norms(value)]
    if not found and not any(isinstance(value, Tensor) for value in record.values()):
        found = [key for key, value in inside.items() if _has_tensors(value)]
    if len(found) > 1:
        names = ", ".join(repr(key)[:60] for key in found[:4])
        raise CheckpointError(
            f"{origin}: holds the weights of {len(found)} networks, under {names}, expected those "
            f"of one: torch.save(torch.load(PATH)[{found[0]!r}], NEW) and pass NEW"
        )
    return found[0] if found and isinstance(found[0], str) else None


def _has_tensors(value: Mapping[Any, Any]) -> bool:
    inside = (value.get(key) for key in NESTS)
    return any(
        isinstance(name, str) and isinstance(item, Tensor)
        for record in (value, *(inner for inner in inside if isinstance(inner, Mapping)))
        for name, item in record.items()
    )


def _shapes_in(value: Mapping[Any, Any]) -> dict[str, torch.Size]:
    """Return the shapes of the tensors in a dict, or in the state dict inside it."""
    for record in (value, *(value.get(key) for key in NESTS)):
        tensors = _of_network(record) if isinstance(record, Mapping) else {}
        if tensors:
            return {name: tensor.shape for name, tensor in with_plain_names(tensors).items()}
    return {}


def _of_network(record: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of a dict that a copy of the network has, too: no counters."""
    return {
        name: tensor
        for name, tensor in record.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
        if not name.endswith(("num_batches_tracked", "n_averaged"))
    }


def _has_norms(value: Mapping[Any, Any]) -> bool:
    """Tell whether BatchNorm statistics are in a dict, or in the state dict inside it."""
    inside = (value.get(key) for key in NESTS)
    return any(
        isinstance(name, str) and name.endswith("running_mean")
        for names in (value, *(inner for inner in inside if isinstance(inner, Mapping)))
        for name in names
    )


def _plain_values(record: Mapping[Any, Any]) -> dict[str, Any]:
    def plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(isinstance(item, str | int | float) for item in value)
        if isinstance(value, dict):  # names and numbers of classes
            return bool(value) and all(
                isinstance(item, str | int) for pair in value.items() for item in pair
            )
        return isinstance(value, str | int | float)

    return {k: v for k, v in record.items() if isinstance(k, str) and plain(v)}


def strip_prefixes(names: list[str]) -> list[str]:
    """Return the names without the wrappers' prefixes (``module.`` and so on) that all share."""
    stripping = True
    while stripping and names:
        stripping = False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in names):
                names = [name[len(prefix) :] for name in names]
                stripping = True
    return names


def with_plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of :func:`strip_prefixes`."""
    return dict(zip(strip_prefixes(list(tensors)), tensors.values(), strict=True))


def under_shared_prefix(
    tensors: Mapping[str, Tensor],
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every prefix that all BatchNorm layers share, and the tensors under it, freed of it.

    Without any, it is that of all tensors. A network that was part of a larger one (``backbone.``,
    ``model.encoder.``) is under one of them; what is not (a loss with weights, counters of metrics)
    did not belong to it. The shortest prefix comes first.
    """
    parents = [name.split(".")[:-2] for name in tensors if name.endswith(".running_mean")]
    parents = parents or [name.split(".")[:-1] for name in tensors]
    shared = parents[0] if parents else []
    for parent in parents:
        same = (a == b for a, b in zip(shared, parent, strict=False))
        shared = shared[: sum(itertools.takewhile(bool, same))]
    for depth in range(1, len(shared) + 1):
        prefix = ".".join(shared[:depth]) + "."
        inside = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        yield prefix, inside


def without_companions(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
    """Return the tensors of a module without what stood beside its network, and a note.

    That is a moving average of the network (``model.``, ``ema_model.``), of which plain weights are
    taken as everywhere, and what losses and metrics keep. None where nothing can be left out.

    Raises:
        CheckpointError: If there are several networks alike, none of which is called an average.
    """
    alike = _networks_alike(tensors)
    averages = [part for part in alike if _AVERAGE.search(part)]
    num_plain = len(alike) - len(averages)
    if num_plain > 1 and all(_first_part(name) in alike for name in tensors):
        names = " and ".join(repr(f"{part}.")[:60] for part in alike[:4])
        raise CheckpointError(
            f"holds the weights of {len(alike)} networks, whose names begin with {names}, expected "
            "those of one: save a state dict with the tensors of that one alone"
        )
    if averages and num_plain == 1:
        taken = next(part for part in alike if part not in averages)
        note = (
            f"took the weights under {taken + '.'!r}; {averages[0][:60] + '.'!r} has some, too: to "
            "use those, save a state dict with these alone"
        )
        return _without(tensors, averages), note
    beside = {part for part in map(_first_part, tensors) if _BESIDE.search(part)}
    left_out = [name for name in tensors if _first_part(name) in beside]
    if not left_out or any(name.endswith(".running_mean") for name in left_out):
        return None
    note = (
        f"left out {len(left_out)} tensors of losses or metrics beside the network; the first is "
        f"{left_out[0][:60]!r}"
    )
    return _without(tensors, beside), note


def _networks_alike(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return under which first parts of names the same tensors are."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _of_network(tensors).items():
        part, _, rest = name.partition(".")
        if rest:
            parts.setdefault(part, {})[rest] = tensor
    networks = [part for part, inside in parts.items() if _has_norms(inside)]
    networks = networks or [part for part, inside in parts.items() if _is_network(part, inside)]
    shapes = {part: _shapes_in(parts[part]) for part in networks}
    first = next(iter(shapes.values()), None)
    is_alike = len(shapes) > 1 and all(each == first for each in shapes.values())
    return list(shapes) if is_alike else []


def _is_network(part: str, tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a part without BatchNorm has layers, and is not one: two of those are alike."""
    layers = {name.rpartition(".")[0] for name in tensors}
    return len(layers) > 1 and _BESIDE.search(part) is None


def _without(tensors: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    left = {name: value for name, value in tensors.items() if _first_part(name) not in parts}
    return with_plain_names(left)


def _first_part(name: str) -> str:
    return name.partition(".")[0]


def problem_of(tensor: Tensor) -> str | None:
    """Return why the tensor can be no weight of a network, or None."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return "is sparse or quantized; expected the weights of a plain float network"
    if tensor.is_meta or tensor.is_complex():
        return f"is {tensor.dtype} on {tensor.device}; expected real numbers with memory"
    if math.prod(tensor.shape) * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims shape {tuple(tensor.shape)} but the file holds less; damaged or hostile"
    if tensor.is_floating_point() and not _all_finite(tensor):
        return "has NaN or infinite values; the training that wrote it had diverged"
    return None


def _all_finite(tensor: Tensor) -> bool:
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # float8 cannot be summed
    # A sum is faster than isfinite, and finite only if every term is; it may overflow, though.
    return bool(torch.isfinite(wide.sum()) or torch.isfinite(wide).all())
