"""What one must know of a teacher besides its weights; it travels in checkpoints and dream sets."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigError

SOFTMAX = "softmax"
SIGMOID = "sigmoid"
ANSWERS = (SOFTMAX, SIGMOID)
MOST_MEAN = 1e6
# Of inputs of any use: those from 0 to 255 have 1/255, 16 bits 1/65535. In float32 the inputs of a
# far smaller one are infinite, and the answers no numbers.
LEAST_STD, MOST_STD = 1e-6, 1e6
NONE = "none"  # the name of class 0 where the others are findings


def class_names_of(names: Sequence[str], num_classes: int, answers: str) -> tuple[str, ...] | None:
    """Return one name per class, or None where these cannot be those of the classes.

    Of findings come as many, or "none" and as many: the first of one more would else be some
    finding's, and all others that of the wrong one. A single number has two classes of any names.
    """
    if answers == SIGMOID and len(names) == num_classes - 1:
        return (NONE, *names)
    if len(names) != num_classes:
        return None
    of_findings = answers == SIGMOID and num_classes > 2
    return None if of_findings and names[0].lower() != NONE else tuple(names)


def misfit_of(names: Sequence[str], num_classes: int, answers: str) -> str:
    """Return what is wrong with names of which :func:`class_names_of` makes none."""
    if answers != SIGMOID:
        return f"found {len(names)}, expected {num_classes}"
    expected = f'{num_classes - 1}, one for each finding, or "{NONE}" and these'
    if len(names) == num_classes:
        return f"found {num_classes}, the first {names[0][:40]!r}, expected {expected}"
    return f"found {len(names)}, expected {expected}"


def other_names(
    names: Sequence[str], recorded: Sequence[str], num_classes: int, answers: str
) -> str | None:
    """Return how names that were given differ from recorded ones, None where they do not.

    Args:
        names: One per class.
        recorded: As they stand somewhere.
        num_classes: Of the network.
        answers: What its logits are for.
    """
    theirs = class_names_of(recorded, num_classes, answers)
    if theirs is None:
        return f"took {len(names)} as given, though {len(recorded)} others are recorded"
    pairs = enumerate(zip(names, theirs, strict=True))
    differ = [(label, *pair) for label, pair in pairs if pair[0] != pair[1]]
    if not differ:
        return None
    label, mine, its = differ[0]
    more = f", and {len(differ) - 1} more" if len(differ) > 1 else ""
    return f"took {mine[:40]!r} for class {label} as given, though {its[:40]!r} is recorded{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """Architecture, preprocessing and identity of a classifier.

    Attributes:
        architecture: Catalog name (``resnet50``, ``resnet20``), ``timm:NAME``,
            ``transformers:TYPE{settings}`` or ``package.module:factory``.
        num_classes: Length of a logit vector; of sigmoids that is their number and one.
        image_shape: ``(C, H, W)`` in pixels.
        mean: Per channel, for pixels in [0, 1]; ``inputs = (pixels - mean) / std``.
        std: Per channel, positive. Both are bounded.
        class_names: One per class, in the order of the logits, or None where unknown; of several
            findings the first is "none".
        fingerprint: Hexadecimal sha256 of the weights, see :func:`shared.teacher.fingerprint`.
        path: Where the weights were read from, as it was given, or None.
        assumptions: What the checkpoint did not say and was assumed, one sentence each.
        answers: ``softmax``: one class per image; ``sigmoid``: class 0 is none, the others may be
            present together (see :mod:`shared.answers`).
    """

    architecture: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    class_names: tuple[str, ...] | None = None
    path: str | None = None
    assumptions: tuple[str, ...] = ()
    answers: str = SOFTMAX

    def __post_init__(self) -> None:
        channels = self.image_shape[0]
        _require(bool(self.architecture), "architecture", self.architecture, "a name")
        _require(self.num_classes >= 1, "num_classes", self.num_classes, "at least 1")
        _require(
            len(self.image_shape) == 3 and all(size >= 1 for size in self.image_shape),
            "image_shape",
            self.image_shape,
            "three positive integers",
        )
        bounds = (
            ("mean", self.mean, -MOST_MEAN, MOST_MEAN),
            ("std", self.std, LEAST_STD, MOST_STD),
        )
        for name, values, low, high in bounds:
            _require(
                len(values) == channels and all(low <= value <= high for value in values),
                name,
                values,
                f"a number from {low:g} to {high:g} for each of the {channels} channels",
            )
        _require(
            re.fullmatch(r"[0-9a-f]{64}", self.fingerprint) is not None,
            "fingerprint",
            self.fingerprint,
            "64 hexadecimal digits",
        )
        self._check_names()
        _require(self.answers in ANSWERS, "answers", self.answers, " or ".join(ANSWERS))
        _require(
            self.answers == SOFTMAX or self.num_classes >= 2,
            "num_classes",
            self.num_classes,
            "at least 2 of sigmoids, none and a finding",
        )

    def _check_names(self) -> None:
        names, about = self.class_names, (self.num_classes, self.answers)
        if names is not None and class_names_of(names, *about) != tuple(names):
            raise ConfigError(f"teacher class_names: {misfit_of(names, *about)}")

    @property
    def num_logits(self) -> int:
        """How many numbers the network itself answers with: no class "none" is among them."""
        return self.num_classes - (self.answers == SIGMOID)

    def with_class_names(self, names: Sequence[str] | None) -> "TeacherSpec":
        """Return the spec with these names, of sigmoids' findings with "none" before them.

        Raises:
            ConfigError: If they are not as many as the classes, or not those of the findings.
        """
        if names is None:
            return dataclasses.replace(self, class_names=None)
        fitting = class_names_of(names, self.num_classes, self.answers)
        if fitting is None:
            found = misfit_of(names, self.num_classes, self.answers)
            raise ConfigError(f"class names: {found}")
        return dataclasses.replace(self, class_names=fitting)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types; that answers are a softmax goes without saying."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if (name, value) != ("answers", SOFTMAX)  # as in records of before there were others
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "TeacherSpec":
        """Return the spec of a JSON record; unknown keys are ignored.

        Raises:
            ConfigError: If a key is missing or a value has the wrong type or range.
        """
        try:
            names = record.get("class_names")
            return cls(
                architecture=str(record["architecture"]),
                num_classes=int(record["num_classes"]),
                image_shape=tuple(int(size) for size in record["image_shape"]),  # type: ignore[arg-type]
                mean=tuple(float(value) for value in record["mean"]),
                std=tuple(float(value) for value in record["std"]),
                fingerprint=str(record["fingerprint"]),
                class_names=None if names is None else tuple(str(name) for name in names),
                path=None if record.get("path") is None else str(record["path"]),
                assumptions=tuple(str(text) for text in record.get("assumptions", ())),
                answers=str(record.get("answers", SOFTMAX)),
            )
        except (
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            OverflowError,
        ) as error:
            raise ConfigError(f"teacher record: {type(error).__name__}: {error}") from error


def _require(condition: bool, name: str, found: object, expected: str) -> None:  # noqa: FBT001
    if not condition:
        raise ConfigError(f"teacher {name}: found {found!r}, expected {expected}")
