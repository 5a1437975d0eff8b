"""Figures of several seeds as text: mean and spread, Markdown tables, rank correlation."""

import math
import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean, with the sample standard deviation where there are several values."""
    if not values:
        return "-"
    mean = f"{round(statistics.mean(values), digits) + 0.0:.{digits}f}"  # no minus before zero
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def percent(fractions: Sequence[float]) -> str:
    """Return mean and spread of fractions in percent."""
    return spread([100 * fraction for fraction in fractions])


def counted(text: str, num_found: int, num_expected: int) -> str:
    """Return ``text``, with the number of seeds behind it where that is not the expected one."""
    if num_found in (0, num_expected):
        return text
    return f"{text} ({num_found} seed{'s' if num_found > 1 else ''})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's correlation, in [-1, 1]: that of the ranks; ties share their mean rank.

    None where there is nothing to rank: fewer than three pairs, or all values of one side equal.
    """
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return statistics.correlation(_ranks(first), _ranks(second))


def standard_deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def signed(value: float | None) -> str:
    """Return ``+0.93``; a dash for None."""
    return "-" if value is None or math.isnan(value) else f"{value:+.2f}"


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    # Of equal values, the first is at index(v) and the last count(v) - 1 behind it.
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]
