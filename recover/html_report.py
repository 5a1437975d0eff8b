"""A report as one HTML file: nothing is loaded from anywhere, light and dark, wide and narrow.

Strings of reports come from files that somebody else may have made: all of them are escaped here.
"""

import base64
import html

from recover.page import Page, Section
from recover.tables import NOTHING, Table
from shared.manifest import printable

MOST_CHARACTERS = 4000

# What a page from a file may do: show itself. No scripts, no requests, whatever slipped through.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# Of every page, in all versions: by it a file is known as one.
BEGINNING = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
)

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #fff; --ink: #1d2430; --soft: #5c6573;
  --grid: #dcdfe4; --shade: 222, 110, 40; --s1: #0b6fb8; --s2: #d1571b; --s3: #158566;
  --s4: #a3488f; --s5: #a67c00; --s6: #4a9fd8; --s7: #7a5a3a; --s8: #6b6f76; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --card: #1b2027; --ink: #e4e7ec;
  --soft: #9aa4b2; --grid: #363d47; --shade: 240, 130, 60; --s1: #5db3f0; --s2: #f08a4b;
  --s3: #43c59e; --s4: #d98bc6; --s5: #e3bc45; --s6: #9ad1f5; --s7: #c9a27c; --s8: #b3b8c0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header, main { max-width: 1060px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 6px; }
p { margin: 0 0 10px; max-width: 75ch; overflow-wrap: anywhere; }
.soft, header p { color: var(--soft); }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
  gap: 16px; padding-top: 16px; padding-bottom: 40px; }
section { background: var(--card); border: 1px solid var(--grid); border-radius: 10px;
  padding: 16px; min-width: 0; }
section.wide { grid-column: 1 / -1; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr));
  gap: 8px 24px; }
.pair > * { min-width: 0; }
figure { margin: 4px 0; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
svg text { font-family: inherit; }
img { max-width: 100%; height: auto; border-radius: 4px; }
.scroll { overflow-x: auto; margin: 6px -4px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { padding: 5px 8px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th { font-weight: 600; color: var(--soft); }
thead th { vertical-align: bottom; white-space: normal; }
th:first-child, .facts td { text-align: left; }
tbody th { color: var(--ink); font-weight: 500; }
tr > :first-child { position: sticky; left: 0; background: var(--card); }
.facts tbody th { color: var(--soft); vertical-align: top; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); padding: 4px 0; }
pre { background: var(--paper); border: 1px solid var(--grid); border-radius: 6px; padding: 10px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; margin: 6px 0; }
@media print { body { font-size: 11px; } section { break-inside: avoid; } }
"""


def to_html(page: Page) -> str:
    """Return the whole file."""
    sections = "\n".join(map(_section, page.sections))
    return (
        f"{BEGINNING}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(page.title)}</h1><p>{escape(page.subtitle)}</p></header>\n"
        f"<main>\n{sections}\n</main>\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """Return text in which nothing is markup, between tags and in attributes."""
    return html.escape(printable(text, MOST_CHARACTERS))


def _section(section: Section) -> str:
    text = "".join(f"<p>{escape(line)}</p>\n" for line in section.paragraphs)
    tables = "".join(map(_table, section.tables))
    if section.folded:
        tables = f"<details><summary>all numbers</summary>{tables}</details>\n"
    body = text + _png(section) + tables
    if section.figure is not None:
        figure = (
            f'<figure role="img" aria-label="{escape(section.title)}">{section.figure}</figure>\n'
        )
        body = text + figure
        if section.tables:
            body = f'<div class="pair"><div>{text}</div>{figure}</div>{tables}'
    body += "".join(f"<pre>{escape(command)}</pre>\n" for command in section.commands)
    wide = ' class="wide"' if section.figure is None or section.tables else ""
    return f"<section{wide}>\n<h2>{escape(section.title)}</h2>\n{body}</section>"


def _png(section: Section) -> str:
    if section.png is None:
        return ""
    data = base64.b64encode(section.png).decode("ascii")
    return (
        f'<figure><img alt="{escape(section.title)}" src="data:image/png;base64,{data}"></figure>\n'
    )


def _table(table: Table) -> str:
    headed = any(table.columns)
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(_row(table, number) for number in range(len(table.rows)))
    kind = "" if headed else ' class="facts"'
    title = f"<caption>{escape(table.title)}</caption>" if table.title and not headed else ""
    return (
        f'<div class="scroll"><table{kind}>{title}'
        + (f"<thead><tr>{head}</tr></thead>" if headed else "")
        + f"<tbody>{rows}</tbody></table></div>\n"
    )


def _row(table: Table, number: int) -> str:
    name, *cells = table.rows[number]
    shades = table.shades[number][1:] if table.shades else (None,) * len(cells)
    filled = "".join(
        f"<td{_shade(shade)}>{escape(cell) if cell != NOTHING else '&ndash;'}</td>"
        for cell, shade in zip(cells, shades, strict=True)
    )
    return f'<tr><th scope="row">{escape(name)}</th>{filled}</tr>'


def _shade(value: float | None) -> str:
    if value is None:
        return ""
    opacity = 0.55 * min(max(value, 0.0), 1.0)
    return f' style="background: rgba(var(--shade), {opacity:.2f})"'
