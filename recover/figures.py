"""The plots of a report as SVG that stands inside a page and takes the page's colors.

Matplotlib draws with placeholder colors; the SVG then names the page's CSS variables instead, so
that one figure serves light and dark. Text stays text. The same figures have the same bytes.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (5.2, 3.3)  # inches: narrow, so that its text can be read on a phone
NUM_COLORS = 8
INK, GRID = "#010101", "#020202"
COLORS = tuple(f"#0a0a{number:02x}" for number in range(1, NUM_COLORS + 1))
_VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)"} | {
    color: f"var(--s{number})" for number, color in enumerate(COLORS, 1)
}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recover",
    "font.size": 10,
    "text.parse_math": False,  # a name with a dollar is not a formula
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve: its points in order of ``x``, and how far the values at a point spread."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    is_bound: bool = False


def against_sparsity(lines: Sequence[Line], teacher: float | None, measure: str) -> str:
    """Return accuracy or agreement against sparsity, the teacher a level line.

    Args:
        lines: x the sparsity, y fractions in [0, 1].
        teacher: The dense network's, a fraction.
        measure: For the axis.
    """

    def draw(axes: "Axes") -> None:
        for number, line in enumerate(lines):
            color = INK if line.is_bound else COLORS[number % NUM_COLORS]
            style = {"linestyle": (0, (4, 2))} if line.is_bound else {}
            x = [_position(sparsity) for sparsity in line.x]
            axes.plot(x, _percents(line.y), marker="o", color=color, label=line.name, **style)  # type: ignore[arg-type]
            if line.low:
                low, high = _percents(line.low), _percents(line.high)
                axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        if teacher is not None:
            axes.axhline(100 * teacher, color=INK, linestyle=":", linewidth=1.4, label="teacher")
        levels = sorted({sparsity for line in lines for sparsity in line.x})
        axes.set_xticks(
            [_position(level) for level in levels], [f"{100 * level:.4g} %" for level in levels]
        )
        if axes.get_ylim()[1] > 100:
            axes.set_ylim(top=100.5)
        axes.set_xlabel("weights pruned (log scale of what is left)")
        axes.set_ylabel(f"{measure}, %")
        axes.legend(loc="lower left")

    return render(draw, "quality")


def stages(
    labels: Sequence[str],
    values: Sequence[tuple[str, Sequence[float | None]]],
    teacher: float | None,
    measure: str,
) -> str:
    """Return bars of every stage, run by run: what repair and distillation each give.

    Args:
        labels: Of the runs.
        values: Name and fraction by run, stage by stage.
        teacher: The dense network's fraction.
        measure: For the axis.
    """

    def draw(axes: "Axes") -> None:
        width = 0.8 / len(values)
        for number, (name, heights) in enumerate(values):
            x = [place + (number - (len(values) - 1) / 2) * width for place in range(len(labels))]
            known = [100 * (height or 0.0) for height in heights]
            axes.bar(x, known, 0.9 * width, color=COLORS[number], label=name)
        if teacher is not None:
            axes.axhline(100 * teacher, color=INK, linestyle=":", linewidth=1.4, label="teacher")
        axes.set_xticks(range(len(labels)), labels, **_slanted(labels))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("weights pruned")
        axes.set_ylabel(f"{measure}, %")
        axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return render(draw, "stages")


def by_layer(lines: Sequence[Line]) -> str:
    """Return the pruned fraction of every layer in the order of the network; y fractions."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        for number, line in enumerate(lines):
            axes.plot(
                line.x,
                _percents(line.y),
                drawstyle="steps-mid",
                color=COLORS[number % NUM_COLORS],
                label=line.name,
            )
        axes.set_xlabel("layer, from input to output")
        axes.set_ylabel("pruned, %")
        axes.set_ylim(-2, 102)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return render(draw, "layers")


def losses(lines: Sequence[Line]) -> str:
    """Return the distillation loss over the steps, on a log scale."""
    from matplotlib.ticker import NullFormatter

    def draw(axes: "Axes") -> None:
        for number, line in enumerate(lines):
            axes.plot(line.x, line.y, color=COLORS[number % NUM_COLORS], label=line.name)
        if all(value > 0 for line in lines for value in line.y):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")  # numbers, where the default writes formulas
            low, high = axes.get_ylim()
            axes.yaxis.set_minor_formatter("{x:g}" if high < 20 * low else NullFormatter())
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return render(draw, "losses")


def render(draw: Callable[["Axes"], None], name: str) -> str:
    """Return what ``draw`` draws as an ``<svg>`` element without size, date or foreign names.

    Args:
        draw: Gets the axes.
        name: Begins every id in it, since several figures share a page.
    """
    import matplotlib  # slow to import
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter without a glyph is the browser's business
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _embedded(stream.getvalue(), name)


def _embedded(svg: str, name: str) -> str:
    """Return the ``<svg>`` element for a page: its colors, its fonts, ids of its own, no links."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    head, bracket, body = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"font(-family)?: [^;\"]*'[^;\"]*", _without_family, body)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    for identifier in used:
        body = re.sub(
            rf'((?:url\(|href="| id=")#?){re.escape(identifier)}\b', rf"\1{name}-{identifier}", body
        )
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    return f"<svg {box[0] if box else ''}{bracket}{body.strip()}"


def _without_family(found: re.Match[str]) -> str:
    """Keep the size of ``font: 10px 'DejaVu Sans'``: the family is the page's."""
    size = re.search(r"[\d.]+px", found[0])
    return f"font-size: {size[0]}" if size else "font-style: normal"


def _position(sparsity: float) -> float:
    """Return how often the weights were halved: 50 % is 1, 75 % is 2."""
    return -math.log2(max(1 - sparsity, 1e-9))


def _percents(fractions: Sequence[float]) -> list[float]:
    return [100 * fraction for fraction in fractions]


def _slanted(labels: Sequence[str]) -> dict[str, Any]:
    crowded = sum(map(len, labels)) > 45
    return {"rotation": 30, "ha": "right"} if crowded else {}
