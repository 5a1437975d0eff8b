"""What the functions for Python of both tools have in common: settings, teachers, progress."""

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.at_hand import teacher_at_hand
from shared.cli_options import read_class_names
from shared.cli_progress import progress_display
from shared.config import AUTO, Option, flag_of, kind_of, options_of
from shared.device import usual_devices
from shared.errors import ConfigError
from shared.process_wide import ProcessWide
from shared.progress import ProgressCallback, ignore_progress
from shared.spec import TeacherSpec
from shared.teacher import Teacher, load_teacher

TeacherSource = nn.Module | Path | str
FACTS = ("arch", "image_size", "mean", "std", "class_names", "answers")
_OF_COMMANDS = ("budget", "dry_run", "gpus", "processes", "worker", "json", "config")
_FLOAT32 = ProcessWide(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
_ALIKE = 0.75  # how much of a misspelt name is right: less is another name


class AssumptionWarning(UserWarning):
    """Something that nobody said was assumed, or is worth a look."""


def warn(texts: Iterable[str], depth: int = 1) -> None:
    """Warn of each text once, in the name of whoever called the public function, ``depth`` up."""
    for text in texts:
        warnings.warn(text, AssumptionWarning, stacklevel=2 + depth)


def split_options(
    function: str, config_class: Any, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return of a call's options those of the config, and those that say what the teacher is.

    Raises:
        TypeError: If there is one of neither, or one by both of its names: ``n`` of the flag
            ``--n`` is ``num_images``.
        ConfigError: If a setting is of another type than its field.
    """
    fields = {field.name: (field, chosen) for field, chosen in options_of(config_class)}
    by_flag = {flag_of(field)[2:].replace("-", "_"): field.name for field, _ in fields.values()}
    settings, facts = {}, {}
    for given, value in options.items():
        name = by_flag.get(given, given)
        if name != given and name in options:
            raise TypeError(f"{function}() got {given!r} and {name!r}, which are the same option")
        if name in FACTS:
            facts[name] = value
        elif name in fields:
            settings[name] = _of_type(*fields[name], value)
        else:
            near = difflib.get_close_matches(name, [*fields, *FACTS], n=1, cutoff=_ALIKE)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            if name in _OF_COMMANDS:
                meant = f"; {name!r} is the command line's alone (docs/python.md)"
            raise TypeError(f"{function}() got an unexpected option {name!r}{meant}")
    return settings, facts


def require_preset(name: str, presets: Mapping[str, Any]) -> None:
    """Raise ConfigError if there is no preset of the name."""
    if not isinstance(name, str) or name not in presets:
        raise ConfigError(f"preset: found {name!r}, expected one of {', '.join(presets)}")


@contextmanager
def opened_teacher(
    source: TeacherSource,
    facts: Mapping[str, Any],
    spec: TeacherSpec | None = None,
    *,
    needs_batch_norm: bool = False,
) -> Iterator[Teacher]:
    """Yield the teacher that is meant; within the block it can be built again by its name.

    Args:
        source: A network, or the path of a checkpoint.
        facts: By the names in :data:`FACTS`.
        spec: What a dream set recorded of it.
        needs_batch_norm: Refuse a network without: it cannot be inverted.

    Raises:
        ConfigError: If ``arch`` is given for a network, which is its own.
    """
    arguments = teacher_facts(facts) | {"needs_batch_norm": needs_batch_norm}
    with usual_state():
        if not isinstance(source, nn.Module):
            path = as_path("teacher", source, "a network, or the path of a checkpoint")
            yield load_teacher(path, spec=spec, **arguments)
            return
        if "architecture" in arguments:
            found = arguments["architecture"]
            raise ConfigError(f"arch: found {found!r}, expected none: the network is at hand")
        with teacher_at_hand(source, spec=spec, **arguments) as teacher:
            yield teacher


@contextmanager
def usual_state() -> Iterator[None]:
    """Compute as in a fresh process: with gradients and in float32, whatever the caller has set.

    Neither does an autocast or a default device of the caller's count.
    """
    with torch.inference_mode(mode=False), torch.enable_grad(), usual_devices(), _FLOAT32.held():
        yield


def as_path(name: str, value: Any, expected: str = "a path") -> Path:
    """Return ``value`` as a path.

    Raises:
        ConfigError: If it is none, or the text is empty.
    """
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{name}: found a {type(value).__name__}, expected {expected}")
    if value == "":
        raise ConfigError(f"{name}: found nothing, expected {expected}")
    return Path(value)


def teacher_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return :data:`FACTS` as arguments of :func:`shared.teacher.teacher_from_checkpoint`."""
    readers = {"image_size": _size, "mean": _floats, "std": _floats, "class_names": _names}
    arguments = {
        name: readers[name](name, value) if name in readers else value
        for name, value in facts.items()
        if value is not None
    }
    if "arch" in arguments:
        arguments["architecture"] = arguments.pop("arch")
    return arguments


def _size(name: str, value: Any) -> tuple[int, int]:
    sides = value if isinstance(value, Sequence) and len(value) == 2 else (value, value)
    if not all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides):
        raise ConfigError(f"{name}: found {value!r}, expected pixels, or (height, width)")
    return int(sides[0]), int(sides[1])


def _floats(name: str, value: Any) -> tuple[float, ...]:
    values = (value,) if isinstance(value, Real) else value
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name}: found {value!r}, expected a number, or one per channel")
    try:
        return tuple(float(each) for each in values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: found {value!r}, expected numbers") from error


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, Path)):
        return read_class_names(Path(value)) or ()
    names = tuple(value) if isinstance(value, Sequence) else ()
    if not names or not all(isinstance(each, str) for each in names):
        raise ConfigError(
            f"{name}: found a {type(value).__name__}, expected a list of names in the order of the "
            "logits, or the path of a file with one a line"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"{name}: found a name twice, expected every name once")
    return names


def shown(progress: bool | ProgressCallback) -> AbstractContextManager[ProgressCallback]:  # noqa: FBT001
    """Return a context with the callback that shows progress: on stderr, nowhere, or one's own."""
    if callable(progress):
        return nullcontext(progress)
    return progress_display() if progress else nullcontext(ignore_progress)


def of_kind(name: str, value: Any, usual: Any) -> Any:
    """Return an argument of the type of its usual value; that one for None.

    Whole numbers of NumPy are numbers; yes and no are none.

    Raises:
        ConfigError: If it is of another type.
    """
    if value is None:
        return usual
    if type(usual) is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if not isinstance(value, type(usual)) or isinstance(value, bool) != isinstance(usual, bool):
        raise ConfigError(
            f"{name}: found {_short(value)}, of type {type(value).__name__}; expected "
            f"{type(usual).__name__}"
        )
    return value


def switches(progress: bool | ProgressCallback | None, **named: bool | None) -> list[bool]:  # noqa: FBT001
    """Return what is on and what is off, in their order; ``progress`` is checked, too.

    Raises:
        ConfigError: If one is anything else.
    """
    if not callable(progress):
        of_kind("progress", progress, usual=False)
    return [of_kind(name, value, usual=False) for name, value in named.items()]


def call_text(function: str, arguments: Mapping[str, Any]) -> str:
    """Return the call as provenance records it: ``recover.run(sparsity=0.9)``."""
    given = ", ".join(
        f"{name}={_short(value)}" for name, value in arguments.items() if value is not None
    )
    return f"{function}({given})"


def _of_type(field: Any, chosen: Option, value: Any) -> Any:
    """Return the value of a setting; numbers of NumPy are numbers, and paths are texts."""
    kind = kind_of(field)
    if value is None or (chosen.auto and value == AUTO):
        return value
    accepted: Any = {float: Real, int: Integral, str: (str, Path)}.get(kind, kind)
    if isinstance(value, accepted) and isinstance(value, bool) == (kind is bool):
        return kind(value)
    raise ConfigError(
        f"{flag_of(field)}: found {value!r}, of type {type(value).__name__}; expected "
        f"{kind.__name__}"
    )


def _short(value: Any) -> str:
    if isinstance(value, Path):
        return repr(str(value))
    text = repr(value)
    is_plain = isinstance(value, (str, Real, list, tuple)) and "tensor(" not in text
    return text if is_plain and len(text) <= 200 else f"<{type(value).__qualname__}>"
