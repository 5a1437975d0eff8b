import json
from pathlib import Path

import pytest
from dreamset_fixtures import tiny_spec

from shared.errors import ConfigError, DreamSetError
from shared.manifest import (
    MAX_JSON_BYTES,
    Manifest,
    ShardInfo,
    canonical_json,
    parse_json,
    printable,
    shard_names,
)


def tiny_manifest(**changes):
    facts = {
        "num_images": 5,
        "shards": (
            ShardInfo(name="a-0.h5", num_images=2, num_bytes=100, sha256="1" * 64),
            ShardInfo(name="a-1.h5", num_images=3, num_bytes=120, sha256="2" * 64),
        ),
        "teacher": tiny_spec(path="/somewhere/teacher.pt"),
        "synthesis": {"steps": 3, "nested": {"list": [1, 2.5, None, "ü"]}},
        "provenance": {"seconds": 12.5},
        "quality": {"teacher_accuracy": 1.0},
    }
    return Manifest(**(facts | changes))


def with_shard(**changes):
    record = tiny_manifest().to_json()
    record["shards"][0].update(changes)
    return record


def test_a_manifest_survives_json() -> None:
    manifest = tiny_manifest()

    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert not manifest.packed


def test_a_packed_manifest_survives_json() -> None:
    manifest = tiny_manifest(shards=(), arrays_sha256="3" * 64)

    assert Manifest.from_json(parse_json(canonical_json(manifest.to_json()))) == manifest
    assert manifest.packed


def test_unknown_keys_are_ignored() -> None:
    record = tiny_manifest().to_json() | {"from_the_future": [1, 2, 3]}
    record["shards"][1]["color"] = "red"

    assert Manifest.from_json(record) == tiny_manifest()


def test_the_digest_is_of_what_the_set_holds() -> None:
    digest = tiny_manifest().digest()

    assert tiny_manifest(provenance={"seconds": 99}).digest() == digest
    assert tiny_manifest(teacher=tiny_spec(path="/elsewhere.pt")).digest() == digest
    assert tiny_manifest(synthesis={"steps": 4}).digest() != digest
    assert tiny_manifest(teacher=tiny_spec(fingerprint="cd" * 32)).digest() != digest


@pytest.mark.parametrize(
    "name",
    [
        "../a.h5",
        "/etc/passwd",
        "a/b.h5",
        "..",
        ".hidden.h5",
        "-rf.h5",
        "a.h5\n",
        "a\x1b[31m.h5",
        "a\u202eb.h5",
        "a.h5/",
        "C:\\a.h5",
        "a.txt",
        "x" * 300 + ".h5",
        "",
        7,
        None,
    ],
)
def test_shards_are_plain_file_names(name) -> None:
    with pytest.raises(DreamSetError, match="a shard's name"):
        Manifest.from_json(with_shard(name=name))


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        "text",
        {},
        {**tiny_manifest().to_json(), "shards": None},
        {**tiny_manifest().to_json(), "shards": [1]},
        {**tiny_manifest().to_json(), "shards": [{}] * 100_000},
        {**tiny_manifest().to_json(), "num_images": 6},
        {**tiny_manifest().to_json(), "num_images": True},
        {**tiny_manifest().to_json(), "num_images": 5.0},
        {**tiny_manifest().to_json(), "shards": []},
        {**tiny_manifest().to_json(), "teacher": None},
        {**tiny_manifest().to_json(), "teacher": {"architecture": "\x1b[2J" * 1000}},
        {**tiny_manifest().to_json(), "synthesis": [1]},
        {**tiny_manifest().to_json(), "quality": {"teacher_accuracy": "high\x1b"}},
        with_shard(name="a-1.h5"),
        with_shard(num_images=-1),
        with_shard(num_images=10**30),
        with_shard(num_bytes=0),
        with_shard(num_bytes="100"),
        with_shard(sha256="F" * 64),
        with_shard(sha256="1" * 63),
    ],
)
def test_nonsense_is_one_printable_line(record) -> None:
    with pytest.raises(DreamSetError) as caught:
        Manifest.from_json(record)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_huge_number_of_classes_is_refused() -> None:
    record = tiny_manifest().to_json()
    record["teacher"].update(num_classes=10**12, class_names=None)

    with pytest.raises(DreamSetError, match="num_classes"):
        Manifest.from_json(record)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": ' + b"9" * 21 + b"}",
        b" " * (MAX_JSON_BYTES + 1),
    ],
)
def test_hostile_json_is_refused(text: bytes) -> None:
    with pytest.raises(DreamSetError, match="JSON"):
        parse_json(text)


def test_json_of_the_allowed_depth_is_read() -> None:
    assert parse_json(b"[" * 32 + b"]" * 32)


def test_printable_text_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\nc\r\u202ed\ud800") == "a?[2Jb?c??d?"
    assert printable("x" * 100, 10) == "x" * 9 + "…"
    assert printable("grün [bold]") == "grün [bold]"
    assert printable({"a": 1}) == "{'a': 1}"


def test_shard_names_count_from_zero() -> None:
    assert shard_names(Path("/tmp/dreams.h5"), 2) == (
        "dreams-00000-of-00002.h5",
        "dreams-00001-of-00002.h5",
    )


@pytest.mark.parametrize(("name", "count"), [("a\n.h5", 1), ("x" * 220, 1), ("d.h5", 0)])
def test_names_that_no_reader_accepts_are_not_made(name: str, count: int) -> None:
    with pytest.raises(ConfigError):
        shard_names(Path(name), count)
