import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import summary


def test_the_spread_is_that_of_a_sample():
    assert summary.spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert summary.percent([0.5]) == "50.0"
    assert summary.spread([]) == "-"
    assert summary.spread([-0.01]) == "0.0"
    assert summary.standard_deviation([0.7]) == 0


def test_a_cell_says_when_seeds_are_missing():
    assert summary.counted("50.0", 3, 3) == "50.0"
    assert summary.counted("50.0", 1, 3) == "50.0 (1 seed)"
    assert summary.counted("-", 0, 3) == "-"


def test_a_table_has_as_many_columns_as_its_head():
    table = summary.markdown(["a", "b"], [["1", "2"]])

    assert table == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([1, 8, 27, 64, 125], 1.0),  # monotone, not linear
        ([5, 4, 3, 2, 1], -1.0),
        # Without ties: 1 - 6 sum(d^2) / (n (n^2 - 1)), here with d = 1, 1, 0, 1, 1.
        ([20, 10, 30, 50, 40], 1 - 6 * 4 / (5 * 24)),
    ],
)
def test_ranks_are_correlated(second, expected):
    assert summary.rank_correlation([1, 2, 3, 4, 5], second) == pytest.approx(expected)


def test_ties_share_their_mean_rank():
    # Ranks 0.5, 0.5, 2 and 0, 1, 2: covariance 1.5, variances 1.5 and 2.
    assert summary.rank_correlation([7, 7, 9], [1, 2, 3]) == pytest.approx(1.5 / 3**0.5)


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3])])
def test_where_there_is_nothing_to_rank_there_is_no_correlation(first, second):
    assert summary.rank_correlation(first, second) is None
    assert summary.signed(None) == "-"
