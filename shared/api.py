"""What the functions for Python of both tools have in common: settings, teachers, progress."""

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from shared.at_hand import teacher_at_hand
from shared.cli_progress import progress_display
from shared.config import AUTO, Option, flag_of, kind_of, options_of
from shared.errors import ConfigError
from shared.progress import ProgressCallback, ignore_progress
from shared.spec import TeacherSpec
from shared.teacher import Teacher, load_teacher

TeacherSource = nn.Module | Path | str
FACTS = ("arch", "image_size", "mean", "std", "class_names", "answers")


class AssumptionWarning(UserWarning):
    """Something that nobody said was assumed, or is worth a look."""


def warn(texts: Iterable[str]) -> None:
    """Warn of each text once, in the name of whoever called the public function."""
    for text in texts:
        warnings.warn(text, AssumptionWarning, stacklevel=3)


def split_options(
    function: str, config_class: Any, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return of a call's options those of the config, and those that say what the teacher is.

    Raises:
        TypeError: If there is one of neither.
        ConfigError: If a setting is of another type than its field.
    """
    fields = {field.name: (field, chosen) for field, chosen in options_of(config_class)}
    settings, facts = {}, {}
    for name, value in options.items():
        if name in FACTS:
            facts[name] = value
        elif name in fields:
            settings[name] = str(value) if isinstance(value, Path) else value
            _require_type(*fields[name], settings[name])
        else:
            near = difflib.get_close_matches(name, [*fields, *FACTS], n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected option {name!r}{meant}")
    return settings, facts


def require_preset(name: str, presets: Mapping[str, Any]) -> None:
    """Raise ConfigError if there is no preset of the name."""
    if name not in presets:
        raise ConfigError(f"preset: found {name!r}, expected one of {', '.join(presets)}")


@contextmanager
def opened_teacher(
    source: TeacherSource, facts: Mapping[str, Any], spec: TeacherSpec | None = None
) -> Iterator[Teacher]:
    """Yield the teacher that is meant; within the block it can be built again by its name.

    Args:
        source: A network, or the path of a checkpoint.
        facts: By the names in :data:`FACTS`.
        spec: What a dream set recorded of it.

    Raises:
        ConfigError: If ``arch`` is given for a network, which is its own.
    """
    arguments = teacher_facts(facts)
    if not isinstance(source, nn.Module):
        yield load_teacher(source, spec=spec, **arguments)
        return
    if "architecture" in arguments:
        found = arguments["architecture"]
        raise ConfigError(f"arch: found {found!r}, expected none: the network is at hand")
    with teacher_at_hand(source, spec=spec, **arguments) as teacher:
        yield teacher


def teacher_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return :data:`FACTS` as arguments of :func:`shared.teacher.teacher_from_checkpoint`."""
    arguments = {name: value for name, value in facts.items() if value is not None}
    for name in ("mean", "std"):
        if isinstance(arguments.get(name), (int, float)):
            arguments[name] = (arguments[name],)
    if "arch" in arguments:
        arguments["architecture"] = arguments.pop("arch")
    return arguments


def shown(progress: bool | ProgressCallback) -> AbstractContextManager[ProgressCallback]:  # noqa: FBT001
    """Return a context with the callback that shows progress: on stderr, nowhere, or one's own."""
    if callable(progress):
        return nullcontext(progress)
    return progress_display() if progress else nullcontext(ignore_progress)


def call_text(function: str, arguments: Mapping[str, Any]) -> str:
    """Return the call as provenance records it: ``recover.run(sparsity=0.9)``."""
    given = ", ".join(
        f"{name}={_short(value)}" for name, value in arguments.items() if value is not None
    )
    return f"{function}({given})"


def _require_type(field: Any, chosen: Option, value: Any) -> None:
    kind = kind_of(field)
    if value is None or (chosen.auto and value == AUTO):
        return
    accepted = (int, float) if kind is float else (kind,)
    if isinstance(value, accepted) and isinstance(value, bool) == (kind is bool):
        return
    raise ConfigError(
        f"{flag_of(field)}: found {value!r}, of type {type(value).__name__}; expected "
        f"{kind.__name__}"
    )


def _short(value: Any) -> str:
    if isinstance(value, nn.Module):
        return f"<{type(value).__qualname__}>"
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, Sequence) and len(value) > 8 and not isinstance(value, str):
        return f"<{len(value)} values>"
    return repr(value)[:200]
