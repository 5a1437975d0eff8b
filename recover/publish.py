"""From folders of runs to a page on disk, and its Markdown beside it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from recover.bounds import remarks_on
from recover.folder import FILES
from recover.html_report import BEGINNING, to_html
from recover.lock import LOCK_NAME
from recover.markdown_report import to_markdown
from recover.next_run import NEXT_NAME
from recover.page import ORIGIN, compose
from recover.results import Result, find_results, require_one_teacher
from recover.tables import Table, levels_table
from shared.errors import ConfigError, InputFileError
from shared.files import atomic_path, make_folder_of, remove_stale_temporaries

MOST_PREVIEW_BYTES = 32 * 2**20
MOST_PAGE_BYTES = 64 * 2**20  # to look for what makes it one


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
        overwrite: Replace a page that is there, and its Markdown; nothing else ever is.

    Raises:
        ConfigError: If a file is there that may not be replaced, both would be the same, or the
            page has the name of a run's file.
        InputFileError: If a folder holds no finished run, or a file is damaged.
        IncompatibleError: If the runs are of several teachers.
    """
    markdown = out.with_suffix(".md")
    if markdown == out:
        raise ConfigError(f"--out {out}: found the name of the Markdown, expected an .html")
    refuse_taken(out, BEGINNING, overwrite=overwrite)
    refuse_taken(markdown, f"## {ORIGIN}\n", overwrite=overwrite)
    if out.name in (*FILES, LOCK_NAME, NEXT_NAME):  # not there yet, in the folder of a run
        raise ConfigError(f"--out {out}: found the name of a run's own file, expected an .html")
    results, remarks = find_results(folders)
    best, more = find_results(bounds)
    remarks += [*more, *remarks_on(results, best)]
    require_one_teacher([*results, *best], "make one report for each teacher")
    png = None if preview is None else _read_png(preview)
    page = compose(results, best, title=title, preview=png, remarks=remarks)
    make_folder_of(out)
    remove_stale_temporaries(out, markdown)
    with atomic_path(out) as new_page, atomic_path(markdown) as new_text:  # renamed when both are
        new_page.write_text(to_html(page), encoding="utf-8")
        new_text.write_text(to_markdown(page), encoding="utf-8")
    return Published(
        html=out,
        markdown=markdown,
        table=levels_table(results, best),
        results=tuple(results),
        remarks=tuple(remarks),
    )


def refuse_taken(path: Path, mark: str, *, overwrite: bool) -> None:
    """Raise ConfigError if something is at ``path`` that a page, or its Markdown, may not replace.

    Args:
        path: Where to write.
        mark: What is in every file that may be replaced; empty ones may be, too.
        overwrite: Whether such a file may be.
    """
    if not path.exists():
        return
    if not overwrite:
        raise ConfigError(f"{path}: is there already; choose another --out, or --overwrite")
    if not path.is_file() or not _is_marked(path, mark.encode()):
        raise ConfigError(
            f"{path}: is there already and not of recover report, so --overwrite leaves it alone; "
            "choose another --out"
        )


def _is_marked(path: Path, mark: bytes) -> bool:
    with path.open("rb") as stream:
        text = stream.read(MOST_PAGE_BYTES)
    return mark in text or not text


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
