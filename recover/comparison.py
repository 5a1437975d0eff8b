"""Finished runs of one teacher by a score that needs no real image, and how far to trust it.

Where reports hold accuracies on real images as well, Spearman's rank correlation says how well the
score would have chosen without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recover.measures import remark_on_images
from recover.report import StageRecord
from recover.results import Result, find_results, require_one_teacher
from recover.tables import NOTHING, Table, level_of, percent

LEAST_RANKED = 3  # two runs are in the same order or in the opposite one, which says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs, the best first.

    Attributes:
        results: By score, the highest first; those without one last.
        correlation: Spearman's, of score and real accuracy over all runs; None where it is not
            known of at least :data:`LEAST_RANKED` runs, or where all are the same.
        correlation_at_level: The same within one sparsity, mean over the sparsities where it can
            be told: over several, any score that falls with the sparsity looks good.
        num_ranked: Runs with both a score and a real accuracy.
        remarks: One sentence each.
    """

    results: tuple[Result, ...]
    correlation: float | None
    correlation_at_level: float | None
    num_ranked: int
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        return {
            "runs": [_record(result) for result in self.results],
            "spearman": self.correlation,
            "spearman_at_equal_sparsity": self.correlation_at_level,
            "num_ranked": self.num_ranked,
            "remarks": list(self.remarks),
        }


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Return the finished runs in ``folders``, ranked.

    Args:
        folders: Of runs and sweeps.

    Raises:
        InputFileError: If a folder holds no finished run, or a file is damaged.
        IncompatibleError: If the runs are of several teachers.
    """
    found, remarks = find_results(folders)
    require_one_teacher(found, "compare students of one teacher")
    results = sorted(found, key=lambda result: -(_score(result) or 0.0))
    results.sort(key=lambda result: _score(result) is None)
    ranked = [result for result in results if None not in _pair(result)]
    return Comparison(
        results=tuple(results),
        correlation=_correlation(ranked),
        correlation_at_level=_correlation_at_level(ranked),
        num_ranked=len(ranked),
        remarks=(*remarks, *_remarks(results), *remark_on_images(results)),
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation: Pearson's, of the ranks; equal values share a mean rank.

    None where it is not defined: of fewer than two pairs, or where all values are the same.
    """
    ranks = [_ranks(first), _ranks(second)]
    centered = [rank - rank.mean() for rank in ranks]
    norms = [float(rank.norm()) for rank in centered]
    if len(first) < 2 or 0.0 in norms:
        return None
    return round(float(centered[0] @ centered[1]) / (norms[0] * norms[1]), 6)


def comparison_table(comparison: Comparison) -> Table:
    """Return one row per run, the best first."""
    rows = tuple(
        (str(result.folder), level_of(result.report), *_figures(result))
        for result in comparison.results
    )
    columns = (
        *("run", "pruned to", "score", "±", "agreement on held-out dreams", "on varied ones"),
        *("KL, nats", "accuracy on real images"),
    )
    return Table(title="Runs by score, the best first", columns=columns, rows=rows)


def _figures(result: Result) -> tuple[str, ...]:
    stage = result.report.recovered
    error, divergence = stage.score_error, stage.divergence
    return (
        percent(stage.score),
        NOTHING if error is None else f"{100 * error:.2f}",
        percent(stage.agreement_on_dreams),
        percent(stage.agreement_on_varied),
        NOTHING if divergence is None else f"{divergence:.4f}",
        percent(stage.accuracy),
    )


def _record(result: Result) -> dict[str, Any]:
    stage = result.report.recovered
    names = ("score", "score_error", "agreement_on_dreams", "agreement_on_varied")
    return {
        "folder": str(result.folder),
        "sparsity": result.report.sparsity,
        **{name: result.report.config.get(name) for name in ("channels", "pattern", "student")},
        **{name: getattr(stage, name) for name in (*names, "divergence", "accuracy")},
    }


def _score(result: Result) -> float | None:
    return result.report.recovered.score


def _pair(result: Result) -> tuple[float | None, float | None]:
    stage: StageRecord = result.report.recovered
    return stage.score, stage.accuracy


def _correlation(ranked: Sequence[Result]) -> float | None:
    if len(ranked) < LEAST_RANKED:
        return None
    pairs = [_pair(result) for result in ranked]
    return spearman([score or 0.0 for score, _ in pairs], [right or 0.0 for _, right in pairs])


def _correlation_at_level(ranked: Sequence[Result]) -> float | None:
    levels: dict[str, list[Result]] = {}
    for result in ranked:
        levels.setdefault(level_of(result.report), []).append(result)
    known = [found for runs in levels.values() if (found := _correlation(runs)) is not None]
    return round(sum(known) / len(known), 6) if known else None


def _ranks(values: Sequence[float]) -> torch.Tensor:
    numbers = torch.tensor(values, dtype=torch.float64)
    lower = (numbers[:, None] > numbers).sum(1)
    equal = (numbers[:, None] == numbers).sum(1)
    return lower + (equal + 1) / 2


def _remarks(results: Sequence[Result]) -> list[str]:
    """Return what a reader of the ranking must know."""
    remarks = []
    without = sum(_score(result) is None for result in results)
    if without:
        remarks.append(
            f"{without} of {len(results)} runs have no score (no held-out dreams, or an earlier "
            "version); recover eval DIR --dreams SET --teacher FILE measures it"
        )
    scored = [result for result in results if _score(result) is not None]
    if len({str(result.fact("dreams", "digest")) for result in scored}) > 1:
        remarks.append(
            "the runs have different dream sets: scores on easier dreams are higher; recover eval "
            "DIR --dreams SET --teacher FILE judges each on the same ones"
        )
    elif len({_held_out(result) for result in scored}) > 1:
        remarks.append("the runs held out different dreams: the scores differ by that, too")
    if len(scored) > 1 and not _is_clear(*scored[:2]):
        remarks.append("the first two scores differ by less than the standard error")
    return remarks


def _held_out(result: Result) -> tuple[object, object]:
    config = result.report.config
    return config.get("holdout"), config.get("seed")


def _is_clear(best: Result, second: Result) -> bool:
    scores = [_score(result) or 0.0 for result in (best, second)]
    return scores[0] - scores[1] >= (best.report.recovered.score_error or 0.0)
