"""What one must know of a teacher besides its weights; it travels in checkpoints and dream sets."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigError

SOFTMAX = "softmax"
SIGMOID = "sigmoid"
ANSWERS = (SOFTMAX, SIGMOID)
NONE = "none"  # the name of class 0 where the others are findings


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """Architecture, preprocessing and identity of a classifier.

    Attributes:
        architecture: Catalog name (``resnet50``, ``resnet20``), ``timm:NAME``,
            ``transformers:TYPE{settings}`` or ``package.module:factory``.
        num_classes: Length of a logit vector; of sigmoids that is their number and one.
        image_shape: ``(C, H, W)`` in pixels.
        mean: Per channel, for pixels in [0, 1]; ``inputs = (pixels - mean) / std``.
        std: Per channel, positive.
        class_names: One per class, in the order of the logits, or None where unknown.
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
        for name, values in (("mean", self.mean), ("std", self.std)):
            _require(
                len(values) == channels and all(map(math.isfinite, values)),
                name,
                values,
                f"{channels} finite numbers, one per channel",
            )
        _require(all(value > 0 for value in self.std), "std", self.std, "positive numbers")
        _require(
            re.fullmatch(r"[0-9a-f]{64}", self.fingerprint) is not None,
            "fingerprint",
            self.fingerprint,
            "64 hexadecimal digits",
        )
        _require(
            self.class_names is None or len(self.class_names) == self.num_classes,
            "class_names",
            None if self.class_names is None else len(self.class_names),
            f"{self.num_classes} names",
        )
        _require(self.answers in ANSWERS, "answers", self.answers, " or ".join(ANSWERS))
        _require(
            self.answers == SOFTMAX or self.num_classes >= 2,
            "num_classes",
            self.num_classes,
            "at least 2 of sigmoids, none and a finding",
        )

    @property
    def num_logits(self) -> int:
        """How many numbers the network itself answers with: no class "none" is among them."""
        return self.num_classes - (self.answers == SIGMOID)

    def with_class_names(self, names: Sequence[str] | None) -> "TeacherSpec":
        """Return the spec with these names, of sigmoids' findings with "none" before them.

        Raises:
            ConfigError: If they are not as many as the classes.
        """
        if names is not None and self.answers == SIGMOID and len(names) == self.num_logits:
            names = (NONE, *names)
        return dataclasses.replace(self, class_names=None if names is None else tuple(names))

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
