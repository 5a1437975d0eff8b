"""A received file is hostile: each of these ends in one line of DreamSetError, and soon."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from dreamset_fixtures import tiny_dreams, write_dream_set

from dreamforge.verify import verify
from shared.chunks import DEFLATE, ChunkTable, check_apart
from shared.dreams import FIELDS
from shared.dreamset import DreamSet
from shared.errors import DreamSetError
from shared.files import sha256_of
from shared.manifest import FORMAT
from shared.shards import read_index, read_shard, write_shard

SHARD = "dreams-00000-of-00001.h5"
Change = Callable[[h5py.File], object]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    write_dream_set(folder, num_shards=1, teacher=b"weights")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "set"))


def set_manifest(index: Path, text: bytes) -> None:
    """Put any bytes where the manifest is."""
    with h5py.File(index, "a") as file:
        del file["manifest"]
        data = np.frombuffer(text, np.uint8)
        file.create_dataset("manifest", data=data, chunks=(len(data),), fletcher32=True)


def change_manifest(index: Path, **changes: object) -> None:
    record = read_index(index).manifest.to_json()
    set_manifest(index, json.dumps(record | changes).encode())


def test_a_shard_that_is_a_link_to_itself_is_one_line(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to(SHARD)

    with pytest.raises(DreamSetError, match=SHARD):
        DreamSet.open(folder / "dreams.h5")
    (problem,) = verify(folder / "dreams.h5").problems
    assert SHARD in problem


def promise(folder: Path) -> Path:
    """Make the index promise the shard as it is now, as whoever forged it would."""
    index, shard = folder / "dreams.h5", folder / SHARD
    entry = {
        "name": SHARD,
        "num_images": 24,
        "num_bytes": shard.stat().st_size,
        "sha256": sha256_of(shard),
    }
    change_manifest(index, shards=[entry])
    return index


def replace(name: str, **storage: object) -> Change:
    """Store an array of the shard in another way, values unchanged unless given."""

    def change(file: h5py.File) -> None:
        values = storage.pop("data", file[name][...])
        del file[name]
        file.create_dataset(name, data=values, **storage)

    return change


def with_value(name: str, value: float) -> Change:
    def change(file: h5py.File) -> None:
        file[name][(3,) * file[name].ndim] = value

    return change


def move(file: h5py.File, name: str) -> None:
    file.move(name, "elsewhere")


def soft_link(file: h5py.File) -> None:
    move(file, "images")
    file["images"] = h5py.SoftLink("/elsewhere")


def external_link(file: h5py.File) -> None:
    move(file, "images")
    file["images"] = h5py.ExternalLink(file.filename, "/elsewhere")


def dangling_link(file: h5py.File) -> None:
    del file["labels"]
    file["labels"] = h5py.SoftLink("/nowhere")


def group(file: h5py.File) -> None:
    del file["images"]
    file.create_group("images")["images"] = h5py.ExternalLink("/etc/passwd", "/")


def external_storage(file: h5py.File) -> None:
    del file["images"]
    file.create_dataset("images", (24, 3, 8, 8), "u1", external=[("/etc/passwd", 0, 24 * 192)])


def virtual(file: h5py.File) -> None:
    move(file, "images")
    layout = h5py.VirtualLayout((24, 3, 8, 8), "u1")
    layout[...] = h5py.VirtualSource(file.filename, "elsewhere", (24, 3, 8, 8))
    file.create_virtual_dataset("images", layout)


def huge_shape(file: h5py.File) -> None:
    del file["images"]
    file.create_dataset("images", (2**40, 3, 8, 8), "u1", chunks=(64, 3, 8, 8), fletcher32=True)


def huge_chunk(file: h5py.File) -> None:
    del file["images"]
    file.create_dataset(
        "images", (24, 3, 8, 8), "u1", chunks=(2**20, 3, 8, 8), maxshape=(None, 3, 8, 8)
    )


def zero_rows(file: h5py.File) -> None:
    for name in file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(
            name, (0, *shape[1:]), dtype, chunks=(8, *shape[1:]), maxshape=(None, *shape[1:])
        )


def missing_chunk(file: h5py.File) -> None:
    del file["images"]
    images = file.create_dataset("images", (24, 3, 8, 8), "u1", chunks=(8, 3, 8, 8))
    images[:16] = 1


def ratio_bomb(file: h5py.File) -> None:
    del file["images"]
    zeros = np.zeros((2**14, 3, 32, 32), "u1")
    file.create_dataset("images", data=zeros, chunks=(2**14, 3, 32, 32), compression=9)


def chunk_bomb(file: h5py.File) -> None:
    """A chunk that declares 4,608 bytes and inflates to a million."""
    del file["images"]
    images = file.create_dataset("images", (24, 3, 8, 8), "u1", chunks=(24, 3, 8, 8), compression=9)
    images.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(10**6), 9))


def short_chunk(file: h5py.File) -> None:
    del file["images"]
    images = file.create_dataset("images", (24, 3, 8, 8), "u1", chunks=(24, 3, 8, 8), compression=9)
    images.id.write_direct_chunk((0, 0, 0, 0), b"not deflate at all")


def chunk_twice(file: h5py.File) -> None:
    """The second chunk of images lies where the first does: its address in the B-tree is forged."""
    values = file["images"][...]
    del file["images"]
    images = file.create_dataset("images", data=values, chunks=(8, 3, 8, 8), fletcher32=True)
    places: list[int] = []
    images.id.chunk_iter(lambda chunk: places.append(chunk.byte_offset))
    first, second = (place.to_bytes(8, "little") for place in places[:2])
    path = Path(file.filename)
    file.close()
    content = path.read_bytes()
    assert content.count(second) == 1
    path.write_bytes(content.replace(second, first))


def skipped_filters(file: h5py.File) -> None:
    del file["images"]
    images = file.create_dataset(
        "images", (24, 3, 8, 8), "u1", chunks=(24, 3, 8, 8), fletcher32=True
    )
    images.id.write_direct_chunk((0, 0, 0, 0), b"x" * (24 * 192 + 4), filter_mask=1)


def unknown_filter(file: h5py.File) -> None:
    del file["images"]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((24, 3, 8, 8))
    creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # zstd, a plug-in
    space = h5py.h5s.create_simple((24, 3, 8, 8))
    h5py.h5d.create(file.id, b"images", h5py.h5t.STD_U8LE, space, creation)


def vlen(file: h5py.File) -> None:
    del file["labels"]
    file.create_dataset("labels", (24,), h5py.vlen_dtype("i8"), chunks=(24,))


def huge_attribute(file: h5py.File) -> None:
    file.attrs.create("synthesis", b"x" * 64_000, dtype="S64000")


SHARD_CORPUS: dict[str, Change] = {
    "soft link": soft_link,
    "external link": external_link,
    "dangling link": dangling_link,
    "group": group,
    "external storage": external_storage,
    "virtual": virtual,
    "huge shape": huge_shape,
    "huge chunk": huge_chunk,
    "zero rows": zero_rows,
    "missing chunk": missing_chunk,
    "ratio bomb": ratio_bomb,
    "chunk bomb": chunk_bomb,
    "short chunk": short_chunk,
    "chunk twice": chunk_twice,
    "skipped filters": skipped_filters,
    "unknown filter": unknown_filter,
    "lzf": replace("images", chunks=(24, 3, 8, 8), compression="lzf"),
    "scale-offset": replace("labels", chunks=(24,), scaleoffset=0),
    "contiguous": replace("images"),
    "split rows": replace("images", chunks=(24, 1, 8, 8)),
    "unequal lengths": replace("labels", data=np.arange(23), chunks=(23,)),
    "float images": replace("images", dtype="f4", chunks=(24, 3, 8, 8)),
    "big-endian labels": replace("labels", dtype=">i8", chunks=(24,)),
    "unsigned labels": replace("labels", dtype="u8", chunks=(24,)),
    "double logits": replace("logits", dtype="f8", chunks=(24, 4)),
    "flat logits": replace("logits", data=np.zeros(24, "f2"), chunks=(24,)),
    "other classes": replace("logits", data=np.zeros((24, 5), "f2"), chunks=(24, 5)),
    "text labels": replace("labels", data=np.array([b"1"] * 24), chunks=(24,)),
    "compound": replace("loss", data=np.zeros(24, [("a", "f4")]), chunks=(24,)),
    "vlen": vlen,
    "NaN logits": with_value("logits", np.nan),
    "infinite loss": with_value("loss", -np.inf),
    "label too large": with_value("labels", 4),
    "negative label": with_value("labels", -1),
    "no loss": lambda file: file.pop("loss"),
    "no format": lambda file: file.attrs.pop("format"),
    "no version": lambda file: file.attrs.pop("format_version"),
    "version 2": lambda file: file.attrs.modify("format_version", 2),
    "version text": lambda file: file.attrs.create("format_version", b"1"),
    "version array": lambda file: file.attrs.create("format_version", [1, 1]),
    "vlen format": lambda file: file.attrs.create("format", FORMAT),
    "format not UTF-8": lambda file: file.attrs.create("format", b"\xff\xfe"),
    "huge attribute": huge_attribute,
}


@pytest.mark.parametrize("case", SHARD_CORPUS)
def test_a_hostile_shard_is_refused(folder: Path, case: str) -> None:
    with h5py.File(folder / SHARD, "a") as file:
        SHARD_CORPUS[case](file)
    index = promise(folder)

    with pytest.raises(DreamSetError) as caught:
        DreamSet.open(index).read(0, 24)
    assert SHARD in str(caught.value)
    assert str(caught.value).isprintable()
    assert not verify(index, deep=True).fine
    if case != "other classes":  # alone, nothing is wrong with such a shard
        with pytest.raises(DreamSetError):
            read_shard(folder / SHARD)


def test_the_reason_is_said(folder: Path) -> None:
    for case, text in (
        ("external storage", "external storage, which can hold any file"),
        ("virtual", "virtual dataset"),
        ("external link", "images: a link to somewhere else"),
        ("lzf", "filters"),
        ("version 2", "found format version 2, this reader knows 1: update dreamforge"),
    ):
        path = folder / f"{case}.h5"
        shutil.copy(folder / SHARD, path)
        with h5py.File(path, "a") as file:
            SHARD_CORPUS[case](file)
        with pytest.raises(DreamSetError, match=text):
            read_shard(path)


def test_unknown_names_are_left_alone(folder: Path) -> None:
    with h5py.File(folder / SHARD, "a") as file:
        file["more"] = h5py.ExternalLink("/etc/passwd", "/")
        file.attrs["more"] = "later versions may say more"
        file.create_dataset("extra", data=np.arange(24.0))

    assert len(DreamSet.open(promise(folder)).read(0, 24)) == 24


def test_a_user_block_is_refused(folder: Path) -> None:
    with h5py.File(folder / "block.h5", "w", userblock_size=512) as file:
        file.attrs["format"] = FORMAT

    with pytest.raises(DreamSetError, match="user block"):
        read_shard(folder / "block.h5")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04" * 100, b"\x89HDF\r\n\x1a\n" + bytes(500)]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dreams.h5").write_bytes(content)

    with pytest.raises(DreamSetError, match=r"dreams\.h5: "):
        DreamSet.open(tmp_path / "dreams.h5")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DreamSetError):
        DreamSet.open(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../secret.h5", "/etc/passwd", "sub/a.h5", ".h5", "a\x1b[2J.h5", "[red]x[/red].h5", "<b>.h5"],
)
def test_shard_names_stay_in_the_folder(folder: Path, name: str) -> None:
    shutil.copy(folder / SHARD, folder.parent / "secret.h5")
    entry = {"name": name, "num_images": 24, "num_bytes": 6000, "sha256": "0" * 64}
    change_manifest(folder / "dreams.h5", shards=[entry])

    with pytest.raises(DreamSetError, match="a shard's name") as caught:
        DreamSet.open(folder / "dreams.h5")
    assert str(caught.value).isprintable()


def test_one_file_twice_is_refused(folder: Path) -> None:
    entry = read_index(folder / "dreams.h5").manifest.to_json()["shards"][0] | {"num_images": 12}
    change_manifest(folder / "dreams.h5", shards=[entry, entry])

    with pytest.raises(DreamSetError, match="a name twice"):
        DreamSet.open(folder / "dreams.h5")


def test_more_or_fewer_labels_than_images_are_refused(folder: Path) -> None:
    entry = read_index(folder / "dreams.h5").manifest.to_json()["shards"][0] | {"num_images": 12}
    change_manifest(folder / "dreams.h5", shards=[entry], num_images=12)

    with pytest.raises(DreamSetError, match="24 labels for 12 images"):
        DreamSet.open(folder / "dreams.h5")


def test_a_shard_with_other_rows_than_promised_is_refused(folder: Path) -> None:
    write_shard(folder / SHARD, tiny_dreams(23), {})

    with pytest.raises(DreamSetError, match="holds"):
        DreamSet.open(promise(folder)).read(0, 1)


@pytest.mark.parametrize(
    "text",
    [b"{}", b"[]", b"[" * 10**6, b"\xff\xfe", b'{"num_images": NaN}', b'"' + b"a" * 10**5],
)
def test_a_hostile_manifest_is_refused(folder: Path, text: bytes) -> None:
    set_manifest(folder / "dreams.h5", text)

    with pytest.raises(DreamSetError, match=r"dreams\.h5: its (manifest|JSON)"):
        DreamSet.open(folder / "dreams.h5")


def test_a_hundred_megabytes_of_manifest_are_not_parsed(folder: Path) -> None:
    with h5py.File(folder / "dreams.h5", "a") as file:
        del file["manifest"]
        # Compressed: refused as such. Not compressed: too long.
        file.create_dataset("manifest", data=np.zeros(10**8, "u1"), chunks=(10**6,), compression=1)

    with pytest.raises(DreamSetError, match="manifest"):
        DreamSet.open(folder / "dreams.h5")


INDEX_CORPUS: dict[str, Change] = {
    "compressed labels": replace("labels", chunks=(24,), compression=9, fletcher32=True),
    "labels without checksum": replace("labels", chunks=(24,)),
    "label out of range": with_value("labels", 4),
    "no labels": lambda file: file.pop("labels"),
    "linked manifest": lambda file: (
        file.move("manifest", "other"),
        file.__setitem__("manifest", h5py.SoftLink("/other")),
    ),
    "text manifest": replace("manifest", data=np.array([b"{}"]), chunks=(1,)),
}


@pytest.mark.parametrize("case", INDEX_CORPUS)
def test_a_hostile_index_is_refused(folder: Path, case: str) -> None:
    with h5py.File(folder / "dreams.h5", "a") as file:
        INDEX_CORPUS[case](file)

    with pytest.raises(DreamSetError, match=r"dreams\.h5: "):
        DreamSet.open(folder / "dreams.h5")


def test_a_linked_teacher_is_refused(folder: Path) -> None:
    with h5py.File(folder / "dreams.h5", "a") as file:
        del file["teacher"]
        file["teacher"] = h5py.ExternalLink("/etc/passwd", "/")

    with pytest.raises(DreamSetError, match="teacher: a link"):
        DreamSet.open(folder / "dreams.h5").teacher_blob()


def table(offsets: list[int], sizes: list[int], filters: tuple[int, ...] = ()) -> ChunkTable:
    """Ten rows of ten bytes in two chunks."""
    return ChunkTable(
        dtype=np.dtype("u1"),
        shape=(10, 10),
        chunk_rows=5,
        filters=filters,
        offsets=np.array(offsets),
        sizes=np.array(sizes),
    )


@pytest.mark.parametrize(
    ("offsets", "sizes", "filters"),
    [
        ([10, 60], [50, 50], ()),  # beyond the end
        ([-1, 50], [50, 50], ()),
        ([0, 50], [50, 49], ()),
        ([0, 50], [2**62, 2**62], ()),
        ([0, 50], [50, 0], (DEFLATE,)),
        ([0, 2**63 - 10], [50, 50], (DEFLATE,)),  # its end is no int64
    ],
)
def test_chunks_lie_in_the_file(
    offsets: list[int], sizes: list[int], filters: tuple[int, ...]
) -> None:
    with pytest.raises(DreamSetError, match="another size, or beyond the file"):
        table(offsets, sizes, filters).check("images", 100)


def test_chunks_lie_side_by_side_in_any_order() -> None:
    first, second = table([300, 50], [50, 50]), table([100, 350], [50, 50])
    check_apart([])
    check_apart([first])
    check_apart([first, second])

    for other in (table([0, 0], [54, 54]), table([0, 30], [50, 50]), table([120, 0], [50, 50])):
        with pytest.raises(DreamSetError, match="overlap"):
            check_apart([second, other])


@pytest.mark.parametrize("name", ["dreams.h5", SHARD])
def test_truncation_anywhere_is_found(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    read = read_index if name == "dreams.h5" else read_shard
    for percent in range(100):
        (folder / "cut.h5").write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(DreamSetError, match=r"cut\.h5: "):
            read(folder / "cut.h5")


def test_a_flipped_bit_of_a_lone_shard_changes_nothing_or_is_found(folder: Path) -> None:
    whole, expected = (folder / SHARD).read_bytes(), tiny_dreams()
    found = 0
    for position in range(0, len(whole), 41):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        (folder / "flipped.h5").write_bytes(bytes(data))
        try:
            dreams = read_shard(folder / "flipped.h5")
        except DreamSetError:
            found += 1
            continue
        for name, _, _ in FIELDS:
            assert torch.equal(getattr(dreams, name), getattr(expected, name)), position
    assert found > 80


def test_a_flipped_bit_of_the_index_changes_nothing_or_is_found(folder: Path) -> None:
    whole, expected = (folder / "dreams.h5").read_bytes(), read_index(folder / "dreams.h5")
    found = 0
    for position in range(0, len(whole), 23):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        (folder / "flipped.h5").write_bytes(bytes(data))
        try:
            index = read_index(folder / "flipped.h5")
        except DreamSetError:
            found += 1
            continue
        assert index.manifest == expected.manifest, position
        assert torch.equal(index.labels, expected.labels), position
    assert found > 40
