"""Accuracy against sparsity and against synthesis seconds, as PNG files for a page or a README."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shared.files import atomic_path

SIZE, PANEL, LEGEND_WIDTH, DPI = (8.0, 4.4), (3.2, 2.9), 2.4, 150  # inches
MOST_ACROSS = 4  # panels beside each other
Y_LABEL, TEACHER = "accuracy on real images, %", "teacher"
INK, FAINT = "#333333", "#dddddd"
# Okabe and Ito 2008: told apart by color-blind readers, too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800")
MARKERS = "osD^vPX*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points in order of ``x``; means and standard deviations are fractions.

    Attributes:
        name: For the legend.
        x: Sparsities, or seconds.
        mean: Over the seeds.
        deviation: Over the seeds, 0 for one.
        labels: Of the points, or none.
    """

    name: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """The curves of one network.

    Attributes:
        title: Above the panel.
        curves: x the sparsity, in [0, 1).
        teacher: Its accuracy, a fraction.
    """

    title: str
    curves: tuple[Curve, ...]
    teacher: float


def plot_against_sparsity(
    curves: Sequence[Curve], teacher: float, path: Path, *, title: str
) -> None:
    """Write accuracy against sparsity, shaded by one standard deviation each way.

    Args:
        curves: x the sparsity, in [0, 1).
        teacher: Its accuracy, a fraction.
        path: A PNG file, written whole or not at all.
        title: Above the plot.
    """
    figure, axes = _axes(title)
    _draw_against_sparsity(axes, curves, teacher, [curve.name for curve in curves])
    figure.legend(frameon=False, loc="outside right upper", fontsize=9)
    _save(figure, path)


def plot_panels(panels: Sequence[Panel], path: Path) -> None:
    """Write accuracy against sparsity, a panel per network, with one legend for all.

    Args:
        panels: At least one; curves of one name look alike in all of them.
        path: A PNG file, written whole or not at all.
    """
    across = min(len(panels), MOST_ACROSS)
    down = -(-len(panels) // across)
    size = (PANEL[0] * across + LEGEND_WIDTH, PANEL[1] * down)
    figure = Figure(figsize=size, layout="constrained")
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    known: dict[str, Artist] = {}
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, number + 1)
        _dress(axes, panel.title)
        _draw_against_sparsity(axes, panel.curves, panel.teacher, names)
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
        axes.tick_params(axis="x", labelsize=8)
        axes.set_xlabel("pruned weights, %" if number >= len(panels) - across else "")
        axes.set_ylabel(Y_LABEL if number % across == 0 else "")
    shown = [name for name in (*names, TEACHER) if name in known]
    handles = [known[name] for name in shown]
    figure.legend(handles, shown, frameon=False, loc="outside right upper", fontsize=9)
    _save(figure, path)


def _draw_against_sparsity(
    axes: Axes, curves: Sequence[Curve], teacher: float, names: Sequence[str]
) -> None:
    """Draw curves, colored by where their names stand in ``names``, and the teacher's line."""
    for curve in curves:
        number = names.index(curve.name)
        color = COLORS[number % len(COLORS)]
        x = [_halvings(sparsity) for sparsity in curve.x]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(x, _percents(curve.mean), color=color, marker=marker, ms=5, label=curve.name)
        low, high = _band(curve)
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axes.axhline(100 * teacher, color=INK, linestyle=":", linewidth=1.4, label=TEACHER)
    levels = sorted({sparsity for curve in curves for sparsity in curve.x})
    axes.set_xticks([_halvings(s) for s in levels], [f"{100 * s:.4g}" for s in levels])
    axes.set_xlabel("pruned weights, % (log scale of what is left)")


def plot_against_seconds(curves: Sequence[Curve], path: Path, *, title: str) -> None:
    """Write accuracy against synthesis seconds, with the spread and a name at each point.

    Args:
        curves: x in seconds, positive; those of one point are drawn as such.
        path: A PNG file, written whole or not at all.
        title: Above the plot.
    """
    figure, axes = _axes(title)
    for number, curve in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        means, deviations = _percents(curve.mean), _percents(curve.deviation)
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(
            curve.x, means, deviations, color=color, marker=marker, capsize=3, label=curve.name
        )
        for x, y, label in zip(curve.x, means, curve.labels, strict=False):
            axes.annotate(label, (x, y), (5, 5), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}" if _is_narrow(axes) else "")
    axes.set_xlabel("synthesis, seconds (log scale)")
    figure.legend(frameon=False, loc="outside lower left", fontsize=8)
    _save(figure, path)


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, title)
    return figure, axes


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_ylabel(Y_LABEL)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _is_narrow(axes: Axes) -> bool:
    """Tell whether x spans too little for powers of ten to be enough as labels."""
    low, high = axes.get_xlim()
    return high < 20 * low


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", dpi=DPI)


def _band(curve: Curve) -> tuple[list[float], list[float]]:
    pairs = list(zip(curve.mean, curve.deviation, strict=True))
    return _percents([m - d for m, d in pairs]), _percents([m + d for m, d in pairs])


def _halvings(sparsity: float) -> float:
    return -math.log2(1 - sparsity)


def _percents(fractions: Sequence[float]) -> list[float]:
    return [100 * fraction for fraction in fractions]
