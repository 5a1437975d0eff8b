"""The manifest of a dream set: which shards belong to it, of which teacher, made how.

It is JSON inside the index, and it may come from anybody: :func:`parse_json` bounds what is
parsed, :meth:`Manifest.from_json` what is believed, :func:`printable` what is shown.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from shared.errors import ConfigError, DreamSetError
from shared.spec import TeacherSpec

FORMAT = "dreamforge.dreamset"
FORMAT_VERSION = 1

MAX_JSON_BYTES = 8 * 2**20  # 10,000 shards and 20,000 class names need about 2 MiB
MAX_JSON_DEPTH = 32
MAX_SHARDS = 99_999  # five digits in the name
MAX_CLASSES = 1_000_000
MAX_IMAGES = 2**40

# A basename: no separators, no leading dot, nothing that a terminal or a shell would act upon.
_FILE_NAME = re.compile(r"\w[\w.+ -]{0,199}\.h5")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """What the index says of one shard.

    Attributes:
        name: Basename, in the folder of the index.
        num_images: Rows of every array.
        num_bytes: Size of the file.
        sha256: Hexadecimal, of the file.
    """

    name: str
    num_images: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that is known of a dream set besides its arrays.

    Attributes:
        num_images: Rows of all shards together.
        shards: In row order. Empty in a packed set, whose arrays lie in the index itself.
        teacher: Who answered with the logits, and its preprocessing.
        synthesis: The full synthesis config, JSON types.
        provenance: Where and when it was made: versions, device, hours, command line, licence.
        quality: Finite numbers on the whole set: losses, the teacher's accuracy on it.
        arrays_sha256: Of a packed set, see :func:`shared.shards.arrays_sha256`; else None.
    """

    num_images: int
    shards: tuple[ShardInfo, ...]
    teacher: TeacherSpec
    synthesis: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    arrays_sha256: str | None = None

    @property
    def packed(self) -> bool:
        """Whether the index holds the arrays itself."""
        return not self.shards

    @property
    def synthetic(self) -> bool | None:
        """Whether the images are dreams (True) or real; None where the provenance does not say."""
        found = self.provenance.get("synthetic")
        return found if isinstance(found, bool) else None

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON types."""
        record = {
            "num_images": self.num_images,
            "shards": [asdict(shard) for shard in self.shards],
            "teacher": self.teacher.to_json(),
            "synthesis": self.synthesis,
            "provenance": self.provenance,
            "quality": self.quality,
        }
        return record if self.arrays_sha256 is None else record | {"arrays": self.arrays_sha256}

    @classmethod
    def from_json(cls, record: object) -> "Manifest":
        """Return the manifest of a JSON record; unknown keys are ignored.

        Raises:
            DreamSetError: If anything is missing, of the wrong type, out of range, or if a shard
                is not a plain file name in the folder of the index.
        """
        _require(isinstance(record, dict), "it is", type(record).__name__, "an object")
        assert isinstance(record, dict)
        listed = record.get("shards")
        _require(isinstance(listed, list), "shards", listed, "a list")
        assert isinstance(listed, list)
        _require(len(listed) <= MAX_SHARDS, "shards", len(listed), f"at most {MAX_SHARDS}")
        shards = tuple(_shard(entry) for entry in listed)
        names = {shard.name for shard in shards}
        _require(len(names) == len(shards), "shards", "a name twice", "one entry for each file")
        manifest = cls(
            num_images=_count(record, "num_images", MAX_IMAGES),
            shards=shards,
            teacher=_teacher(record.get("teacher")),
            synthesis=_object(record, "synthesis"),
            provenance=_object(record, "provenance"),
            quality=_figures(record),
            arrays_sha256=None if shards else _sha256(record, "arrays"),
        )
        total = sum(shard.num_images for shard in shards)
        expected = f"the sum of its shards, {total}"
        if shards:
            _require(total == manifest.num_images, "num_images", manifest.num_images, expected)
        return manifest

    def digest(self) -> str:
        """Return a sha256 that says what the set holds, not when or where it was made.

        It covers the whole manifest but ``provenance`` and the teacher's path. Two sets of shards
        with equal digests hold the same bytes.
        """
        record = self.to_json()
        del record["provenance"], record["teacher"]["path"]
        return hashlib.sha256(canonical_json(record)).hexdigest()


def shard_names(index_path: Path, num_shards: int) -> tuple[str, ...]:
    """Return the names of the shards next to an index: ``dreams-00000-of-00016.h5`` and so on.

    Raises:
        ConfigError: If the index has a name that readers would refuse, or there are too many.
    """
    stem = index_path.stem
    if not 1 <= num_shards <= MAX_SHARDS:
        raise ConfigError(f"{num_shards} shards: expected 1 to {MAX_SHARDS}; use larger shards")
    names = tuple(f"{stem}-{number:05d}-of-{num_shards:05d}.h5" for number in range(num_shards))
    if not _FILE_NAME.fullmatch(names[0]):
        raise ConfigError(
            f"{printable(str(index_path))}: expected a name of at most 180 letters, digits, "
            "spaces and . _ + - that starts with a letter or digit, such as dreams.h5"
        )
    return names


def canonical_json(value: Any) -> bytes:
    """Return the one compact, sorted, ASCII encoding of ``value``; NaN and infinity are refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def parse_json(text: bytes) -> Any:
    """Parse JSON from an untrusted file.

    Raises:
        DreamSetError: If it is too long or too deep, not UTF-8, not JSON, or holds NaN, infinity
            or a number beyond 64 bits.
    """
    if len(text) > MAX_JSON_BYTES:
        raise DreamSetError(f"its JSON has {len(text)} bytes, expected at most {MAX_JSON_BYTES}")
    try:
        value = json.loads(
            text.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, parse_int=_moderate
        )
    except (ValueError, RecursionError) as error:
        raise DreamSetError(f"its JSON cannot be read: {printable(str(error))}") from error
    if _is_deeper_than(value, MAX_JSON_DEPTH):
        raise DreamSetError(f"its JSON is nested more than {MAX_JSON_DEPTH} levels deep")
    return value


def printable(value: object, limit: int = 80) -> str:
    """Return text from a file as something safe to put into a one-line message.

    Control characters, terminal escapes, line breaks, directional marks and lone surrogates become
    ``?``; longer text is cut. Rich markup and HTML are left as they are: whoever renders those
    escapes them.
    """
    text = value if isinstance(value, str) else repr(value)
    clean = "".join(char if char.isprintable() else "?" for char in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _shard(entry: object) -> ShardInfo:
    _require(isinstance(entry, dict), "a shard", entry, "an object")
    assert isinstance(entry, dict)
    name = entry.get("name")
    _require(
        isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None,
        "a shard's name",
        name,
        "a plain file name such as dreams-00000-of-00016.h5",
    )
    return ShardInfo(
        name=str(name),
        num_images=_count(entry, "num_images", MAX_IMAGES),
        num_bytes=_count(entry, "num_bytes", 2**63),
        sha256=_sha256(entry, "sha256"),
    )


def _teacher(record: object) -> TeacherSpec:
    _require(isinstance(record, dict), "teacher", record, "an object")
    assert isinstance(record, dict)
    try:
        teacher = TeacherSpec.from_json(record)
    except ConfigError as error:
        raise DreamSetError(f"its manifest: {printable(str(error), 200)}") from error
    found = teacher.num_classes
    _require(found <= MAX_CLASSES, "num_classes", found, f"at most {MAX_CLASSES}")
    return teacher


def _count(record: Mapping[str, Any], name: str, limit: int) -> int:
    value = record.get(name)
    valid = type(value) is int and 1 <= value <= limit  # bool is an int, too
    _require(valid, name, value, f"a whole number from 1 to {limit}")
    return int(value or 0)


def _sha256(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    valid = isinstance(value, str) and _SHA256.fullmatch(value) is not None
    _require(valid, name, value, "64 hexadecimal digits")
    return str(value)


def _object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name, {})
    _require(isinstance(value, dict), name, value, "an object")
    return dict(value)


def _figures(record: Mapping[str, Any]) -> dict[str, Any]:
    quality = _object(record, "quality")
    for name, value in quality.items():
        valid = isinstance(value, int | float) and math.isfinite(value)
        _require(valid, f"quality {printable(name, 30)}", value, "a finite number")
    return quality


def _require(condition: bool, name: str, found: object, expected: str) -> None:  # noqa: FBT001
    if not condition:
        shown = printable(found, 60)
        raise DreamSetError(f"its manifest: {name}: found {shown}, expected {expected}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _moderate(text: str) -> int:
    value = int(text)  # Python itself refuses more than 4300 digits
    if abs(value) > 2**64:  # beyond that, arithmetic with floats may overflow
        raise ValueError(f"{text[:20]} is not a number that fits 64 bits")
    return value


def _is_deeper_than(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        children: list[object] = []
        for item in level:
            if isinstance(item, dict):
                children.extend(item.values())
            elif isinstance(item, list):
                children.extend(item)
        if not children:
            return False
        level = children
    return True
