"""``recover compare``: which of several students is best, without a real image."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recover.cli_options import AS_JSON, warn
from shared.cli import emit, show_table
from shared.cli_options import FILE

if TYPE_CHECKING:
    from recover.comparison import Comparison


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=FILE)
@AS_JSON
def compare(
    folders: tuple[Path, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Rank finished runs by a score that needs no real image.

    The score is how much of the student's and the teacher's answers to held-out dreams is the same,
    after flips, shifts and CutMix: 100 % where all answers are equal. Runs of one teacher can be
    compared, best on one dream set. Where the reports hold accuracies on real images, too,
    Spearman's rank correlation says how well the score orders the runs: 1 is the same order.

    \b
    Examples:
      recover compare dreams-s0.8 other-settings
      recover compare levels more-levels --json
    """
    from recover.comparison import compare_runs

    comparison = compare_runs(folders)
    warn(comparison.remarks)
    emit(comparison.to_json(), as_json=as_json, render=lambda: _show(comparison))


def _show(comparison: "Comparison") -> None:
    from recover.comparison import comparison_table

    table = comparison_table(comparison)
    show_table(table.title, table.columns, table.rows)
    if comparison.correlation is None:
        return
    line = (
        "Spearman's rank correlation of score and accuracy on real images: "
        f"{comparison.correlation:.3f} over {comparison.num_ranked} runs"
    )
    if comparison.correlation_at_level is not None:
        line += f", {comparison.correlation_at_level:.3f} among runs of equal sparsity"
    click.echo(line)
