"""A report as Markdown: the tables and the text; figures are in the page beside it."""

import re

from recover.page import Page, Section
from recover.tables import Table
from shared.manifest import printable

MOST_CHARACTERS = 4000


def to_markdown(page: Page) -> str:
    """Return the page as GitHub's Markdown; every string of it is escaped."""
    parts = [f"# {escape(page.title)}", escape(page.subtitle)]
    for section in page.sections:
        parts += _section(section)
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Return text in which nothing is markup, an HTML tag, a link or the end of a cell."""
    safe = re.sub(r"([\\`*_\[\]<>#|&~$@])", r"\\\1", printable(text, MOST_CHARACTERS))
    safe = re.sub(r":(?=//)|(?<=www)\.", r"\\\g<0>", safe)  # GitHub makes links of bare addresses
    # At the start of a line these begin a list or underline a heading.
    return re.sub(r"^(\s*\d*)([-+=.)])(?=\s|$|[-=])", r"\1\\\2", safe)


def _section(section: Section) -> list[str]:
    if section.png is not None and not section.tables:
        return []  # a picture alone
    parts = [f"## {escape(section.title)}", *map(escape, section.paragraphs)]
    parts += [_table(table) for table in section.tables]
    parts += [_fenced(command) for command in section.commands]
    return parts


def _table(table: Table) -> str:
    aligned = [
        ":--" if number == 0 or not any(table.columns) else "--:"
        for number, _ in enumerate(table.columns)
    ]
    rows = [table.columns, aligned, *table.rows]
    lines = [
        "| " + " | ".join(cell if row is aligned else escape(cell) for cell in row) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def _fenced(command: str) -> str:
    text = printable(command, MOST_CHARACTERS)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
