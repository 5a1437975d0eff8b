"""From folders of runs to a page on disk, and its Markdown beside it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from recover.bounds import remarks_on
from recover.html_report import to_html
from recover.markdown_report import to_markdown
from recover.page import compose
from recover.results import Result, find_results, require_one_teacher
from recover.tables import Table, levels_table
from shared.errors import ConfigError, InputFileError
from shared.files import write_text

MOST_PREVIEW_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was written, and what stands in it."""

    html: Path
    markdown: Path
    table: Table
    results: tuple[Result, ...]
    remarks: tuple[str, ...]


def publish(
    folders: Sequence[Path],
    out: Path,
    *,
    bounds: Sequence[Path] = (),
    preview: Path | None = None,
    title: str = "Recovery report",
    overwrite: bool = False,
) -> Published:
    """Write the page ``out`` and the Markdown beside it.

    Args:
        folders: Of runs and sweeps.
        out: HTML file; the Markdown has its name with ``.md``.
        bounds: Folders of the same runs on real images.
        preview: PNG of the dreams.
        title: Of the page.
        overwrite: Replace what is there.

    Raises:
        ConfigError: If a file is there already, or both would be the same.
        InputFileError: If a folder holds no finished run, or a file is damaged.
        IncompatibleError: If the runs are of several teachers.
    """
    markdown = out.with_suffix(".md")
    if markdown == out:
        raise ConfigError(f"--out {out}: found the name of the Markdown, expected an .html")
    for path in (out, markdown):
        if path.exists() and not overwrite:
            raise ConfigError(f"{path}: is there already; choose another --out, or --overwrite")
    results, remarks = find_results(folders)
    best, more = find_results(bounds)
    remarks += [*more, *remarks_on(results, best)]
    require_one_teacher([*results, *best], "make one report for each teacher")
    png = None if preview is None else _read_png(preview)
    page = compose(results, best, title=title, preview=png, remarks=remarks)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, to_html(page))
    write_text(markdown, to_markdown(page))
    return Published(
        html=out,
        markdown=markdown,
        table=levels_table(results, best),
        results=tuple(results),
        remarks=tuple(remarks),
    )


def _read_png(path: Path) -> bytes:
    """Return the bytes of a PNG that can be decoded, and that is nothing else at the same time."""
    try:
        if path.stat().st_size > MOST_PREVIEW_BYTES:
            raise InputFileError(
                f"--preview {path}: more than {MOST_PREVIEW_BYTES >> 20} MiB; "
                "make a smaller one with dreamforge preview --scale"
            )
        blob = path.read_bytes()
        with Image.open(io.BytesIO(blob), formats=("PNG",)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputFileError(
            f"--preview {path}: no readable PNG ({type(error).__name__}); "
            "expected one of dreamforge preview"
        ) from error
    return blob
