"""Intervals: against figures done by hand, against resampling, and how often they hold what is true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from train.paired import Figure, Interval, difference, interval

Z = 1.959963984540054


def shares(*counts: int) -> tuple[Figure, Figure]:
    """Two models' hits from the counts of (both, first alone, second alone, neither)."""
    pairs = np.repeat([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], counts, axis=0)
    return Figure(pairs[:, 0]), Figure(pairs[:, 1])


def test_a_share_has_wilsons_interval() -> None:
    """8 of 10 and 0 of 10: (0.4902, 0.9433) and (0, 0.2775)."""
    found = interval(shares(8, 0, 0, 2)[0])
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=5e-5), pytest.approx(0.9433, abs=5e-5))
    found = interval(shares(0, 0, 0, 10)[0])
    assert (found.low, found.high) == (pytest.approx(0, abs=1e-12), pytest.approx(0.2775, abs=5e-5))


def test_two_shares_have_walds_interval_of_two_rows_more() -> None:
    """Half a row in each cell, literally."""
    found = difference(*shares(30, 9, 2, 11))
    cells, differs = np.array([30.5, 9.5, 2.5, 11.5]), np.array([0.0, 1, -1, 0])
    n = cells.sum()
    mean = (cells * differs).sum() / n
    half = Z * math.sqrt((cells * (differs - mean) ** 2).sum() / n / n)
    assert found == Interval(pytest.approx(7 / 52), pytest.approx(mean - half), pytest.approx(mean + half))


def test_four_rows_of_23_that_one_model_alone_has_may_be_chance() -> None:
    found = difference(*shares(19, 0, 4, 0))
    assert found.low < found.value < 0 < found.high
    assert difference(*shares(17, 0, 6, 0)).high < 0


def test_other_figures_have_the_interval_of_a_mean() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(2, 1, 500), draw.normal(2, 1, 500)
    found = difference(Figure(one), Figure(other))
    half = Z * (one - other).std(ddof=1) / math.sqrt(500)
    middle = (one - other).mean()
    assert found == Interval(pytest.approx(middle), pytest.approx(middle - half), pytest.approx(middle + half))


def test_weights_make_ratios_whose_error_is_that_of_resampling() -> None:
    """As a loss is that is summed over tokens, of which rows have more or fewer."""
    draw = np.random.default_rng(1)
    weights = draw.integers(1, 40, 800).astype(np.float64)
    one = draw.gamma(2, 1, 800) * weights
    other = one * draw.uniform(0.2, 0.6, 800)
    found = difference(Figure(one, weights), Figure(other, weights))
    rows = draw.integers(0, 800, (4000, 800))
    resampled = (one[rows].sum(1) - other[rows].sum(1)) / weights[rows].sum(1)
    assert found.value == pytest.approx((one.sum() - other.sum()) / weights.sum())
    assert found.high - found.low == pytest.approx(2 * Z * resampled.std(), rel=0.05)


@pytest.mark.parametrize(("n", "both", "either"), [(12, 0.8, 0.1), (40, 0.9, 0.05), (300, 0.5, 0.2)])
def test_intervals_hold_what_is_true_as_often_as_they_say(n: int, both: float, either: float) -> None:
    """Of two equal models, and their share itself; of few rows too, where Wald's interval does not."""
    draw = np.random.default_rng(2)
    counts = draw.multinomial(n, [both, either / 2, either / 2, 1 - both - either], 2000)
    pairs = [shares(*found) for found in counts]
    held = [difference(*pair) for pair in pairs]
    assert np.mean([found.low <= 0 <= found.high for found in held]) >= 0.94
    of_one = [interval(one) for one, _ in pairs]
    assert np.mean([found.low <= both + either / 2 <= found.high for found in of_one]) >= 0.92


VALUES = arrays.arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e3, 1e3))


@given(VALUES, st.booleans())
def test_what_holds_of_all_intervals(values: np.ndarray, is_share: bool) -> None:
    one = (values > 0).astype(np.float64) if is_share else values
    other = np.random.default_rng(len(one)).permutation(one)
    there, back = difference(Figure(one), Figure(other)), difference(Figure(other), Figure(one))
    assert there.low <= there.value <= there.high
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    same = difference(Figure(one), Figure(one))
    assert same.low <= same.value == 0 <= same.high
    weighted = interval(Figure(one, np.full(len(one), 3.0)))
    assert weighted.value == pytest.approx(Figure(one).value / 3, abs=1e-9)
    wider = difference(Figure(one), Figure(other), level=0.999)
    assert wider.low <= there.low <= there.high <= wider.high


def test_what_is_not_finite_stays_so_and_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    values = np.array([1.0, np.nan, np.inf, -np.inf, 0.5])
    for found in (interval(Figure(values)), difference(Figure(values), Figure(np.ones(5)))):
        assert not math.isfinite(found.value)
        assert not found.high < 0
        assert not found.low > 0
    assert not recwarn.list
