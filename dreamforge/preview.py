"""A contact sheet: some dreams of some classes, as a picture to look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from shared.confidence import confidences
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.manifest import printable
from shared.seeding import generator

SORTS = ("confidence", "loss", "random")

_BACKGROUND, _INK, _FAINT = (250, 250, 249), (28, 27, 26), (120, 118, 114)
_TILE = 112  # pixels, of a dream on the sheet, where the scale is not given
_LARGEST_TILE = 256
_GAP, _MARGIN, _ROW_GAP = 3, 20, 9
_TITLE_HEIGHT = 52
_LABEL_WIDTH = 132
_COLUMN_GAP = 24
_LEAST_WIDTH = 480  # for the title
_LINES = 10
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAX_PIXELS = 2**26  # of a sheet: 192 MiB while it is drawn
_SMOOTH_FROM = 17  # pixels; of smaller images one wants to see the pixels


def contact_sheet(
    dreams: DreamSet,
    *,
    num_classes: int | None = None,
    per_class: int = 8,
    sort: str = "confidence",
    scale: float | None = None,
) -> Image.Image:
    """Draw a row of dreams for each of some classes; short rows stand beside each other.

    Args:
        dreams: The set.
        num_classes: All classes that occur if they are fewer, else evenly chosen. None: as many as
            stand in ten lines.
        per_class: Dreams of a class, the best first; as many are the width of the picture.
        sort: ``confidence`` (the teacher's, in the label, highest first), ``loss`` (lowest first),
            or ``random`` (always the same draw).
        scale: Magnification; by default such that a dream is well seen.

    Returns:
        An RGB picture.

    Raises:
        ConfigError: If there are no such classes, dreams or sorts to show, or too many pixels.
        DreamSetError: If a shard is damaged.
    """
    possible = scale is None or 0 < scale <= _MAX_PIXELS
    too_few = num_classes is not None and num_classes < 1
    if too_few or per_class < 1 or sort not in SORTS or not possible:
        raise ConfigError(
            f"contact sheet of {'some' if num_classes is None else num_classes} classes, "
            f"{per_class} each, sorted by {sort}: expected at least 1 of both, a "
            f"sort of {', '.join(SORTS)}, and a positive scale "
            f"of at most {_MAX_PIXELS:,}"
        )
    tile = _tile_size(dreams.image_shape, scale)
    longest = min(per_class, int(dreams.labels.bincount().max()))
    step = _LABEL_WIDTH + longest * (tile[0] + _GAP) + _COLUMN_GAP
    most_columns = max(1, (_LABEL_WIDTH + per_class * (tile[0] + _GAP) + _COLUMN_GAP) // step)
    rows = _choose(dreams, num_classes or _LINES * most_columns, per_class, sort)
    columns = min(most_columns, len(rows))
    lines = -(-len(rows) // columns)
    font, small, large = (ImageFont.load_default(size) for size in (14, 11, 19))
    width = max(_LEAST_WIDTH, 2 * _MARGIN + columns * step - _COLUMN_GAP - _GAP)
    height = 2 * _MARGIN + _TITLE_HEIGHT + lines * (tile[1] + _ROW_GAP) - _ROW_GAP
    if width * height > _MAX_PIXELS:
        raise ConfigError(
            f"contact sheet of {width:,}x{height:,} pixels, expected at most "
            f"{_MAX_PIXELS // 2**20} million in all; lower --scale, --classes or --per-class"
        )
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    title, subtitle = _titles(dreams, sort)
    room = width - 2 * _MARGIN
    draw.text((_MARGIN, _MARGIN - 5), _fitted(draw, title, large, room), _INK, large)
    draw.text((_MARGIN, _MARGIN + 20), _fitted(draw, subtitle, small, room), _FAINT, small)
    for place, row in enumerate(rows):
        line, column = divmod(place, columns)
        left = _MARGIN + column * step
        top = _MARGIN + _TITLE_HEIGHT + line * (tile[1] + _ROW_GAP)
        middle = top + tile[1] / 2
        name = _fitted(draw, row.name, font, _LABEL_WIDTH - 8)
        note = _fitted(draw, row.note, small, _LABEL_WIDTH - 8)
        draw.text((left, middle - 1), name, _INK, font, anchor="ls")
        draw.text((left, middle + 4), note, _FAINT, small, anchor="lt")
        for number, image in enumerate(dreams.images(row.rows)):
            sheet.paste(
                _picture(image, tile), (left + _LABEL_WIDTH + number * (tile[0] + _GAP), top)
            )
    return sheet


def refuse_taken(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError if something is at ``path`` that a contact sheet may not replace.

    Args:
        path: Of the sheet.
        overwrite: Another PNG may be replaced; nothing else ever is.
    """
    if not path.exists():
        return
    if not overwrite:
        raise ConfigError(f"{path}: is there already; choose another --out, or --overwrite")
    if path.is_dir() or not _is_png(path):
        raise ConfigError(
            f"{path}: is there already and no PNG, so --overwrite leaves it alone; choose another "
            "--out"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    name: str
    note: str
    rows: Tensor  # int64, of the set


def _choose(dreams: DreamSet, num_classes: int, per_class: int, sort: str) -> list[_Row]:
    scores, note = _scores(dreams, sort)
    labels, counts = dreams.labels.unique(return_counts=True)
    places = torch.linspace(0, len(labels) - 1, min(num_classes, len(labels))).round().long()
    names = dreams.manifest.teacher.class_names
    chosen = []
    for label, count in zip(labels[places].tolist(), counts[places].tolist(), strict=True):
        rows = (dreams.labels == label).nonzero().flatten()
        best = rows[scores[rows].argsort(descending=True, stable=True)[:per_class]]
        name = printable(names[label], 40) if names else f"class {label}"
        about = f"{count} dream{'s' if count > 1 else ''}"
        if note:
            about += f" · {note} {float(scores[rows].mean().abs()):.2f}"
        chosen.append(_Row(name, about, best))
    return chosen


def _scores(dreams: DreamSet, sort: str) -> tuple[Tensor, str]:
    """Return a score of every row, higher is better, and what to call it."""
    if sort == "random":
        return torch.rand(dreams.num_images, generator=generator(0, "preview")), ""
    if sort == "loss":
        return -torch.cat(list(dreams.columns("loss"))), "loss"
    parts = [confidences(*answer) for answer in answers_of(dreams)]
    return torch.cat(parts), "conf."


def answers_of(dreams: DreamSet) -> Iterator[tuple[Tensor, Tensor, str]]:
    """Yield shard by shard the teacher's logits, the labels, and what the logits are for."""
    for number, logits in enumerate(dreams.columns("logits")):
        labels = dreams.labels[slice(*dreams.shard_rows(number))]
        yield logits, labels, dreams.manifest.teacher.answers


def _titles(dreams: DreamSet, sort: str) -> tuple[str, str]:
    manifest = dreams.manifest
    channels, height, width = dreams.image_shape
    known = {True: "dreams", False: "images (not synthetic)"}
    what = "images" if manifest.synthetic is None else known[manifest.synthetic]
    title = f"{manifest.num_images:,} {what} of {printable(manifest.teacher.architecture)}"
    facts = [f"{width}x{height}x{channels}", f"{manifest.teacher.num_classes:,} classes"]
    if "steps" in manifest.synthesis:
        facts.append(f"{printable(manifest.synthesis['steps'], 12)} steps")
    accuracy = manifest.quality.get("teacher_accuracy")
    if isinstance(accuracy, int | float):
        facts.append(f"the teacher recognizes {accuracy:.1%}")
    order = {"confidence": "most confident", "loss": "lowest loss", "random": "random"}[sort]
    return title, " · ".join([*facts, f"{order} of each class", manifest.digest()[:12]])


def _tile_size(image_shape: tuple[int, int, int], scale: float | None) -> tuple[int, int]:
    _, height, width = image_shape
    if scale is None:
        longest = max(height, width)
        # Whole factors keep pixels square.
        scale = (
            max(1, round(_TILE / longest)) if longest <= _LARGEST_TILE else _LARGEST_TILE / longest
        )
    return max(1, round(width * scale)), max(1, round(height * scale))


def _picture(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """Return a uint8 ``(C, H, W)`` image as RGB; of other than three channels the mean, gray."""
    if image.shape[0] != 3:
        image = image.float().mean(0, keepdim=True).round().to(torch.uint8).expand(3, -1, -1)
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    if picture.size == size:
        return picture
    if max(picture.size) < _SMOOTH_FROM:
        return picture.resize(size, Image.Resampling.NEAREST)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _is_png(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_PNG_MAGIC)) in (_PNG_MAGIC, b"")


def _fitted(draw: Any, text: str, font: Any, width: float) -> str:
    """Return ``text``, cut so that it is at most ``width`` pixels long."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
