"""The curves of a grid: accuracy against sparsity, one for each kind of transfer set."""

from collections.abc import Mapping
from statistics import mean

from grid import Cell, Grid, accuracies, of_source
from plots import Curve
from summary import standard_deviation

from recover.report import RecoveryReport

# What a reader of a plot is told of the sets with short names.
LEGEND = {"real": "real images", "seed": "recipe of arXiv:2511.20702"}


def curves(grid: Grid, reports: Mapping[Cell, RecoveryReport]) -> list[Curve]:
    """Return a curve for each source that has finished runs, with the levels it has them at."""
    found = []
    for source in grid.sources:
        points = [
            (level, accuracies(of_source(reports, source.name, level, grid.seeds)))
            for level in grid.levels
        ]
        points = [(level, values) for level, values in points if values]
        if points:
            found.append(
                Curve(
                    name=LEGEND.get(source.name, source.name),
                    x=tuple(level for level, _ in points),
                    mean=tuple(mean(values) for _, values in points),
                    deviation=tuple(standard_deviation(values) for _, values in points),
                )
            )
    return found
