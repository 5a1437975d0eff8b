"""What a run is set to where no flag says otherwise: the preset, and what ``--student`` brings.

No torch here: ``recover --help`` must answer at once.
"""

import re
from collections.abc import Mapping
from typing import Any

from recover.config import RecoverConfig
from recover.presets import PRESETS

DEFAULT_LEVELS = "0.5,0.8,0.9,0.95"  # sparsities of a sweep

# A student of its own architecture is small already: it is pruned when somebody asks for it.
ANOTHER_STUDENT: Mapping[str, Any] = {"sparsity": 0.0}
# Fewer channels, or a pattern of zeros, say how much is removed.
SAID_OTHERWISE: Mapping[str, Any] = {"sparsity": 0.0}
# What a pruned copy of the teacher starts with, random weights have yet to learn: more steps, a
# larger rate and the weight decay that small networks are trained with (He et al. 2016,
# arXiv:1512.03385, section 4.2: rate 0.1; 5e-4 as in Zagoruyko & Komodakis 2016, arXiv:1605.07146).
# There are no statistics to repair yet.
FROM_SCRATCH: Mapping[str, Any] = {
    "steps": 10_000,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "repair_images": 0,
}

# Of a run's options, those that `recover prune` has, too.
PRUNING_OPTIONS = (
    "sparsity",
    "channels",
    "pattern",
    "round_to",
    "importance",
    "allocation",
    "keep",
    "keep_first",
    "keep_last",
    "batch_size",
    "repair",
    "reconstruct",
    "repair_images",
    "holdout",
    "seed",
    "device",
)


def base_settings(preset: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run's config below its flags.

    A preset's values win over those of a student from scratch, but for the sparsity: another
    student is not pruned unless a flag says so.

    Args:
        preset: Name in :data:`recover.presets.PRESETS`.
        arguments: By field of the config; None where not given.
    """
    return {**_from_scratch(arguments), **PRESETS[preset], **_smaller(arguments)}


def remark_on_student(preset: str, arguments: Mapping[str, Any]) -> str | None:
    """Return a sentence on what was chosen because of ``--student``; None if nothing was."""
    chosen = {
        name: value
        for name, value in {**_another_student(arguments), **_from_scratch(arguments)}.items()
        if arguments.get(name) is None and name not in PRESETS[preset].keys() - {"sparsity"}
    }
    if not chosen:
        return None
    start = arguments.get("student_weights") or "random weights"
    listed = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in chosen.items())
    return f"--student {arguments['student']} starts from {start}: took {listed}; flags win"


def student_suffix(config: RecoverConfig) -> str:
    """Return ``-resnet20`` for a folder's name, or nothing where the student is pruned teacher."""
    return "" if config.student is None else "-" + re.sub(r"[^\w.]+", "-", config.student)


def default_suffix(config: RecoverConfig) -> str:
    """Return ``-s0.8``, ``-c0.5``, ``-resnet20``...: what follows the dream set's name."""
    if config.channels is not None:
        return f"-c{config.channels:g}"
    if config.pattern is not None:
        return "-" + config.pattern.replace(":", "of")
    sparsity = f"-s{config.sparsity:g}"
    return student_suffix(config) + ("" if config.student and not config.sparsity else sparsity)


def _smaller(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    says = any(arguments.get(name) is not None for name in ("channels", "pattern"))
    return SAID_OTHERWISE if says else _another_student(arguments)


def _another_student(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {} if arguments.get("student") is None else ANOTHER_STUDENT


def _from_scratch(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    if arguments.get("student") is None or arguments.get("student_weights") is not None:
        return {}
    return FROM_SCRATCH
