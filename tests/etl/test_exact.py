"""Figures that are exact: the oracle is Python's fractions, sorting and counting, over 1, 2 and 7 partitions."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl import exact

FLOATS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9).map(float))
ROWS = st.lists(st.tuples(FLOATS, FLOATS, FLOATS), max_size=30)
SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 1.0)
EXTREMES = [5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 0.1, -0.0, 0.0]


def partitioned(spark: SparkSession, rows: list[tuple[Any, ...]], columns: pa.Schema) -> list[DataFrame]:
    """The same rows in 1, 2 and 7 partitions, the last two in another order."""
    orders = ((1, rows), (2, rows[::-1]), (7, sorted(rows, key=repr)))
    tables = (
        pa.table([list(c) for c in zip(*o, strict=True)] or [[]] * len(columns), schema=columns) for _, o in orders
    )
    return [spark.createDataFrame(table).repartition(n) for table, (n, _) in zip(tables, orders, strict=True)]


def smallest_not_exceeded(values: list[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@settings(max_examples=2)
@example([(x, 2.0**i, 2.0**-i) for i, x in enumerate(EXTREMES)])
@example([(2.0**k, math.nextafter(2.0**k, 0), -(2.0**-k)) for k in range(0, 1023, 31)])
@given(ROWS)
def test_moments_and_quantiles_are_those_of_exact_arithmetic(
    spark: SparkSession, rows: list[tuple[float | None, float | None, float | None]]
) -> None:
    names = ["a", "b", "c"]
    parts = partitioned(spark, list(rows), pa.schema([(name, pa.float64()) for name in names]))
    found = [exact.moments(df, [F.col(name) for name in names]) for df in parts]
    quantiles = [exact.quantiles(df, [(F.col(name), exact.Quantiles(SHARES)) for name in names]) for df in parts]
    assert repr(found[0]) == repr(found[1]) == repr(found[2])
    assert repr(quantiles[0]) == repr(quantiles[1]) == repr(quantiles[2])
    for summed, shares, column in zip(
        found[0], quantiles[0], zip(*rows, strict=True) if rows else [()] * 3, strict=True
    ):
        values = [x for x in column if x is not None]
        assert summed == exact.Summed(
            len(values),
            min(values, default=0.0),
            max(values, default=0.0),
            sum(map(Fraction, values), Fraction(0)),
            sum((Fraction(x) ** 2 for x in values), Fraction(0)),
        )
        assert shares == (tuple(smallest_not_exceeded(values, share) for share in SHARES) if values else None)


@settings(max_examples=3)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(["", "a", "b", "ä", "\U0001f600", "\ue000", None])), st.integers(-3, 3)),
        max_size=30,
    )
)
def test_counts_are_those_of_a_counter(spark: SparkSession, rows: list[tuple[list[str | None], int]]) -> None:
    texts = [(text, label) for tokens, label in rows for text in tokens if text is not None]
    counted, total = Counter(text for text, _ in texts), Counter[str]()
    for text, label in texts:
        total[text] += label
    expected = sorted(((t, n, total[t]) for t, n in counted.items()), key=lambda x: (-x[1], x[0].encode()))
    asked = [(F.col("t"), exact.Counts(100)), (F.col("t"), exact.Counts(2))]
    for df in partitioned(spark, list(rows), pa.schema({"t": pa.list_(pa.string()), "y": pa.int32()})):
        assert exact.counts(df, asked, F.col("y")) == [expected, expected[:2]]
        assert exact.counts(df, asked[1:], None) == [[(text, n, 0) for text, n, _ in expected[:2]]]


def test_nothing_asked_is_nothing_answered(spark: SparkSession) -> None:
    df = spark.range(3)
    assert (exact.moments(df, []), exact.quantiles(df, []), exact.counts(df, [], None)) == ([], [], [])


@pytest.mark.parametrize("order", [[1e300, 1.0, -1e300], [1.0, 1e300, -1e300]])
def test_what_floats_would_lose_is_kept(spark: SparkSession, order: list[float]) -> None:
    df = spark.createDataFrame([(x,) for x in order], "x double")
    assert exact.moments(df, [F.col("x")])[0].total == 1
