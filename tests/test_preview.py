from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set

from dreamforge.info import describe
from dreamforge.preview import answers_of, contact_sheet, refuse_taken
from shared.confidence import confidences
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import ConfigError, DreamSetError

COLORS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]], dtype=torch.uint8)


@pytest.fixture
def colored(tmp_path: Path) -> DreamSet:
    """Dreams whose color is that of their class; brighter ones are more confident."""
    plain = tiny_dreams()
    images = COLORS[plain.labels][:, :, None, None].expand(24, 3, 8, 8).contiguous()
    dreams = DreamBatch(
        images=images,
        labels=plain.labels,
        logits=plain.logits,
        batch=plain.batch,
        loss=plain.loss,
    )
    return DreamSet.open(write_dream_set(tmp_path, dreams=dreams))


@pytest.mark.parametrize("sort", ["confidence", "loss", "random"])
def test_every_class_has_a_row_of_its_dreams(colored: DreamSet, sort: str) -> None:
    sheet = contact_sheet(colored, per_class=3, sort=sort, scale=2)

    colors = {color: count for count, color in sheet.getcolors(maxcolors=2**16)}
    for color in COLORS.tolist():
        assert colors[tuple(color)] == 3 * 16 * 16


def test_fewer_classes_are_spread_over_all(colored: DreamSet) -> None:
    sheet = contact_sheet(colored, num_classes=2, per_class=1, scale=1)

    colors = {color for _, color in sheet.getcolors(maxcolors=2**16)}
    assert {(255, 0, 0), (90, 90, 90)} <= colors
    assert not {(0, 255, 0), (0, 0, 255)} & colors


def test_small_dreams_are_enlarged(colored: DreamSet) -> None:
    sheet = contact_sheet(colored, num_classes=1, per_class=1)

    colors = {color: count for count, color in sheet.getcolors(maxcolors=2**16)}
    assert colors[(255, 0, 0)] == 112 * 112


def test_a_grayscale_set_with_odd_names_is_drawn(tmp_path: Path) -> None:
    spec = tiny_spec(
        image_shape=(1, 28, 28),
        mean=(0.0,),
        std=(1.0,),
        class_names=("\x1b[2J", "a\nb", "", "x" * 99),
    )
    index = write_dream_set(tmp_path, spec=spec)

    assert contact_sheet(DreamSet.open(index)).mode == "RGB"


def test_confidence_is_the_probability_of_the_label(colored: DreamSet) -> None:
    rows = colored.read(0, 24)

    expected = rows.logits.float().softmax(1)[torch.arange(24), rows.labels]

    assert torch.equal(
        torch.cat([confidences(*answer) for answer in answers_of(colored)]), expected
    )


@pytest.mark.parametrize(
    "options",
    [{"num_classes": 0}, {"per_class": 0}, {"sort": "beauty"}, {"scale": 0}, {"scale": 1e300}],
)
def test_impossible_sheets_are_refused(colored: DreamSet, options: dict) -> None:
    with pytest.raises(ConfigError, match="contact sheet"):
        contact_sheet(colored, **options)


def test_info_tells_what_the_index_says(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path, teacher=b"blob", provenance={"seconds": 1800, "device": "H"})

    found = describe(index)

    assert found["num_images"] == 24
    assert found["num_shards"] == 2
    assert found["num_bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found["classes"][3] == {"label": 3, "name": "gray", "num_images": 6}
    assert found["images_per_class"] == [6, 6]
    assert found["teacher"]["fingerprint"] == "ab" * 32
    assert found["teacher"]["embedded"]
    assert found["hours"] == 0.5
    assert found["license"] == "unspecified"
    assert found["digest"] == DreamSet.open(index).manifest.digest()


def test_info_of_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DreamSetError, match="not found"):
        describe(tmp_path / "dreams.h5")


def test_short_rows_stand_beside_each_other(colored: DreamSet) -> None:
    """Six dreams of each of four classes: they fit into a line of 24, with their names."""
    lines = contact_sheet(colored, per_class=6, scale=2)
    beside = contact_sheet(colored, per_class=100, scale=2)

    assert lines.width < beside.width
    assert lines.height > beside.height
    colors = {color: count for count, color in beside.getcolors(maxcolors=2**16)}
    assert [colors[tuple(color)] for color in COLORS.tolist()] == [6 * 16 * 16] * 4


def test_as_many_classes_are_shown_as_stand_in_ten_lines(tmp_path: Path) -> None:
    num_classes = 60
    plain = tiny_dreams()
    images = torch.arange(num_classes, dtype=torch.uint8).view(-1, 1, 1, 1) * 4
    labels = torch.arange(num_classes)
    dreams = DreamBatch(
        images=images.expand(num_classes, 3, 8, 8).contiguous(),
        labels=labels,
        logits=torch.nn.functional.one_hot(labels, num_classes).half(),
        batch=torch.zeros(num_classes, dtype=plain.batch.dtype),
        loss=torch.zeros(num_classes),
    )
    spec = tiny_spec(num_classes=num_classes, class_names=None)
    index = write_dream_set(tmp_path, dreams=dreams, spec=spec)

    def grays(**options: int) -> int:
        sheet = contact_sheet(DreamSet.open(index), scale=1, **options)  # type: ignore[arg-type]
        shown = {color[0] for _, color in sheet.getcolors(maxcolors=2**16)}
        return len(shown & set(range(0, 240, 4)))

    assert grays(per_class=1) >= 10  # and letters have grays of their own
    assert grays(per_class=60) > grays(per_class=1)
    assert grays(num_classes=num_classes) == num_classes


def test_a_sheet_that_would_take_all_memory_is_refused(colored: DreamSet) -> None:
    with pytest.raises(ConfigError, match=r"expected at most 64 million in all; lower --scale"):
        contact_sheet(colored, scale=100_000)


def test_a_sheet_replaces_pictures_only(tmp_path: Path) -> None:
    picture, other = tmp_path / "a.png", tmp_path / "a.h5"
    refuse_taken(picture, overwrite=False)
    picture.write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    other.write_bytes(b"years of work")

    refuse_taken(picture, overwrite=True)
    with pytest.raises(ConfigError, match="is there already; choose another --out, or --over"):
        refuse_taken(picture, overwrite=False)
    for path in (other, tmp_path):
        with pytest.raises(ConfigError, match="no PNG, so --overwrite leaves it alone"):
            refuse_taken(path, overwrite=True)
