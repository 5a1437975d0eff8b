"""How facts about a teacher are written in files: ours, and those of training scripts.

Records are somebody else's: a reader returns None for what makes no sense.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.architectures import ARCHITECTURES
from shared.spec import ANSWERS, LEAST_STD, MOST_MEAN, MOST_STD


def _read_architecture(value: Any) -> str | None:
    known = isinstance(value, str) and (value in ARCHITECTURES or ":" in value)
    return value if known else None


def _read_size(value: Any) -> tuple[int, int] | None:
    numbers = read_numbers(value)
    if numbers is None or len(numbers) != 3 or not all(1 <= size <= 16384 for size in numbers):
        return None
    return int(numbers[1]), int(numbers[2])


def read_numbers(value: Any) -> tuple[float, ...] | None:
    """Return a sequence of finite numbers as a tuple, or None if it is anything else, or empty."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    numbers = [item for item in value if isinstance(item, (int, float)) and _is_float(item)]
    return tuple(numbers) if len(numbers) == len(value) else None


def _is_float(number: float) -> bool:
    """Tell whether a number is finite, also as a float, which whole ones in JSON need not be."""
    return abs(number) <= sys.float_info.max


def _read_mean(value: Any) -> tuple[float, ...] | None:
    numbers = read_numbers(value)
    return numbers if numbers and max(map(abs, numbers)) <= MOST_MEAN else None


def _read_std(value: Any) -> tuple[float, ...] | None:
    numbers = read_numbers(value)
    return numbers if numbers and min(numbers) >= LEAST_STD and max(numbers) <= MOST_STD else None


def _read_names(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    return tuple(value) if all(isinstance(item, str) for item in value) else None


def _read_side(value: Any) -> tuple[int, int] | None:
    """Read what scripts call the size of their inputs: a side, ``[H, W]`` or ``[C, H, W]``."""
    numbers = read_numbers(value if isinstance(value, Sequence) else [value])
    if numbers is None or len(numbers) > 3 or not all(n == int(n) for n in numbers):
        return None
    sides = (1, *numbers * 2) if len(numbers) == 1 else (1, *numbers[-2:])
    return _read_size(sides)


def _read_class_map(value: Any) -> tuple[str, ...] | None:
    """Read torchvision's ``class_to_idx``, or the reverse, as names in the order of the logits."""
    if not isinstance(value, Mapping):
        return None
    pairs = list(value.items())
    if all(isinstance(name, int) for name, _ in pairs):
        pairs = [(name, number) for number, name in pairs]
    numbers = [number for _, number in pairs]
    whole = all(type(number) is int for number in numbers)
    if not pairs or not whole or sorted(numbers) != list(range(len(pairs))):
        return None
    return _read_names([name for name, _ in sorted(pairs, key=lambda pair: pair[1])])


def _read_answers(value: Any) -> str | None:
    return value if isinstance(value, str) and value in ANSWERS else None


# key in the record -> fact, and how to read it; of several for a fact the first counts
READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "architecture": ("architecture", _read_architecture),
    "image_shape": ("image_size", _read_size),
    "mean": ("mean", _read_mean),
    "std": ("std", _read_std),
    "class_names": ("class_names", _read_names),
    "answers": ("answers", _read_answers),
    # What training scripts write beside their weights.
    "image_size": ("image_size", _read_side),
    "input_size": ("image_size", _read_side),
    "img_size": ("image_size", _read_side),
    "class_to_idx": ("class_names", _read_class_map),
    "idx_to_class": ("class_names", _read_class_map),
    "classes": ("class_names", _read_names),
}
# Others mean other things by these; another's word for an architecture is still a hint.
LOOSE_KEYS = READERS.keys() - {"image_shape", "mean", "std", "class_names"}
