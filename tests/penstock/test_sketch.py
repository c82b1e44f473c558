"""Sketches: exact where they say so, within their bound where not, and the same however the values were parted."""

from __future__ import annotations

import json
import math
import statistics
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock import sketch as sketches
from penstock.sketch import MAX_BINS, UNIT, Numbers, bins, mean_and_std, merge, num_distinct, quantiles, sketch

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DTYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, st.integers(0, 600)))


def spread(seed: int, n: int) -> npt.NDArray[np.float64]:
    """Numbers of many sizes and both signs, with spikes: more distinct ones than a sketch has bins."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) * 10.0 ** rng.integers(-3, 4, n)
    x[rng.random(n) < 0.1] = -999
    return x


def in_parts(values: npt.NDArray[Any], cuts: list[int], order: int) -> Numbers:
    """The sketch of the same values in another order and in parts, which are merged two by two and then together."""
    shuffled = np.random.default_rng(order).permutation(values)
    pieces = np.split(shuffled, sorted(cut % (len(values) + 1) for cut in cuts))
    parts = [sketch(two[-1], onto=sketch(two[0])) if len(two) == 2 else sketch(two[0]) for two in _pairs(pieces)]
    return merge([merge(two) for two in _pairs(parts)][::-1])


def _pairs(values: list[Any]) -> list[list[Any]]:
    return [values[i : i + 2] for i in range(0, len(values), 2)]


@given(ARRAYS, st.lists(st.integers(0, 600), max_size=5), st.integers(0, 9))
def test_parts_in_any_order_make_the_same_sketch(values: npt.NDArray[Any], cuts: list[int], order: int) -> None:
    assert json.dumps(in_parts(values, cuts, order).to_json()) == json.dumps(sketch(values).to_json())


@given(
    st.integers(0, 50),
    st.integers(2_000, 6_000),
    st.sampled_from(["float64", "float32", "float16", "int64", "int16"]),
    st.lists(st.integers(0, 6_000), min_size=1, max_size=6),
    st.integers(0, 9),
)
@settings(max_examples=60)
def test_parts_of_more_values_than_bins_make_the_same_sketch(
    seed: int, n: int, dtype: str, cuts: list[int], order: int
) -> None:
    values = np.clip(spread(seed, n) * 30, -30_000, 30_000).astype(dtype)
    assert MAX_BINS / 4 < len(sketch(values).keys) <= MAX_BINS
    assert json.dumps(in_parts(values, cuts, order).to_json()) == json.dumps(sketch(values).to_json())


@given(ARRAYS)
def test_sums_extremes_and_distinct_values_are_exact(values: npt.NDArray[Any]) -> None:
    found = sketch(values)
    is_integer = values.dtype.kind in "iu"
    finite = [Fraction(v.item()) for v in values if np.isfinite(v)]
    unit = 1 if is_integer else 2**UNIT
    assert (found.total, found.squares) == (sum(finite) * unit, sum(v * v for v in finite) * unit * unit)
    assert (found.count, found.nan) == (len(finite), int(np.isnan(values).sum()))
    assert found.infinite == len(values) - found.nan - found.count
    assert (found.low, found.high) == (min(finite, default=None), max(finite, default=None))
    if all(float(v) == v for v in finite):  # what float64 holds
        assert num_distinct(found) == (len(set(finite)), True)
    mean, std = mean_and_std(found, is_integer)
    if finite:
        assert mean == float(sum(finite) / len(finite))
        assert std == pytest.approx(_root(statistics.pvariance(finite)), rel=1e-15, abs=0)
    else:
        assert mean is std is None


def _root(x: Fraction) -> float:
    """With 700 digits, which squares of the smallest floats need."""
    return math.isqrt(int(x * 10**1400)) / 10**700


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32"])
@given(st.integers(0, 1000), st.integers(1, 20_000))
@settings(max_examples=25)
def test_quantiles_are_within_the_bound(dtype: str, seed: int, n: int) -> None:
    values = (spread(seed, n) * 1000).astype(dtype)
    found = sketch(values)
    exact = np.quantile(values, SHARES, method="inverted_cdf")
    bound = sketches.relative_error(found)
    assert bound <= 1 / 16
    assert (np.abs(quantiles(found, SHARES, dtype.startswith("int")) - exact) <= bound * np.abs(exact)).all()
    if found.is_whole:
        assert quantiles(found, SHARES, dtype.startswith("int")) == exact.tolist()


def test_values_far_from_zero_are_told_apart() -> None:
    """Timestamps differ by a hundredth of their size, in which a sketch of a fixed relative error sees nothing."""
    values = np.random.default_rng(0).integers(1_362_062_307, 1_378_067_265, 50_000)
    found = sketch(values)
    assert MAX_BINS / 2 < len(found.keys) <= MAX_BINS
    exact = np.quantile(values, SHARES, method="inverted_cdf")
    assert np.abs(quantiles(found, SHARES, True) - exact).max() < 16_384


@pytest.mark.parametrize("n", [2_000, 50_000, 1_000_000])
def test_distinct_values_are_estimated(n: int) -> None:
    values = np.random.default_rng(1).permutation(np.repeat(np.arange(n, dtype=np.float64) / 7, 2))
    estimate, is_exact = num_distinct(sketch(values))
    assert not is_exact
    assert estimate == pytest.approx(n, rel=3 / math.sqrt(sketches.MAX_HASHES - 2))  # three standard errors


@given(ARRAYS)
def test_a_sketch_survives_json(values: npt.NDArray[Any]) -> None:
    found = sketch(values)
    assert Numbers.from_json(found.to_json()).to_json() == found.to_json()


@given(ARRAYS)
def test_bins_hold_the_values(values: npt.NDArray[Any]) -> None:
    found = sketch(values)
    lows, highs = bins(found, values.dtype.kind in "iu")
    finite = np.sort(values[np.isfinite(values)].astype(np.float64))
    assert (np.repeat(lows, found.counts) <= finite).all()
    assert (finite <= np.repeat(highs, found.counts)).all()
