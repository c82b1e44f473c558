"""Exact figures of columns over all rows: the same to the last bit however rows are ordered, partitioned and run.

Sums of floats depend on the order in which they are rounded, so none is rounded here: a float is a whole number
times a power of two, and whole numbers are added for each power apart. Quantiles are values that are there. Ties
between categories go to the smaller text. One Spark job at most for each kind of figure, however many columns ask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

HALF, BLOCK = 27, 28  # bits: of a 55-bit number's lower half; of what sums of 2**35 rows leave room for


@dataclass(frozen=True)
class Moments:
    """Asks for number, extremes, sum and sum of squares of the numbers that are not null."""


@dataclass(frozen=True)
class Quantiles:
    """Asks for the smallest values that at least these shares of the values that are not null do not exceed."""

    shares: tuple[float, ...]


@dataclass(frozen=True)
class Counts:
    """Asks for the `limit` most frequent texts, how often each is there, and the sum of a label over its rows.

    The column holds arrays of texts; null elements do not count.
    """

    limit: int


Ask: TypeAlias = Moments | Quantiles | Counts


@dataclass(frozen=True)
class Summed:
    count: int = 0
    low: float = 0.0
    high: float = 0.0
    total: Fraction = Fraction(0)  # Σ x
    squares: Fraction = Fraction(0)  # Σ x²


def moments(df: DataFrame, columns: Sequence[Column]) -> list[Summed]:
    """Of each double column, neither NaN nor infinite; zeros where all rows are null.

    A number is m 2^-s with |m| < 2^55, a whole number for s = 53 - log2 |x|, rounded either way. With m = h 2^27 + l
    all parts of m and m² fit 64-bit integers, and so do sums of their upper and lower bits over 2^35 rows.
    """
    if not columns:
        return []
    numbered = F.array(*(F.struct(F.lit(i).alias("i"), x.alias("x")) for i, x in enumerate(columns)))
    scaled = (
        df.select(F.inline(numbered))
        .where("x IS NOT NULL")
        .withColumn("s", F.lit(53) - F.coalesce(F.floor(F.log2(F.abs("x"))), F.lit(0)).cast("int"))
    )
    # In two steps: 2^s alone may be beyond a double.
    whole = scaled.withColumn("m", F.expr("cast(x * pow(2D, s div 2) * pow(2D, s - s div 2) as bigint)"))
    halves = whole.select("i", "x", "s", F.shiftright("m", HALF).alias("h"), F.expr(f"m & {(1 << HALF) - 1}L AS l"))
    parts = ["h", "l", "h * h", "h * l", "l * l"]
    sums = [
        F.expr(f"sum({bits}) AS p{i}{place}")
        for i, part in enumerate(parts)
        for place, bits in (("u", f"shiftright({part}, {BLOCK})"), ("l", f"({part}) & {(1 << BLOCK) - 1}L"))
    ]
    groups = halves.groupBy("i", "s").agg(
        F.count("x").alias("count"), F.min("x").alias("low"), F.max("x").alias("high"), *sums
    )
    found: dict[int, list[Any]] = defaultdict(list)
    for row in groups.collect():
        found[row["i"]].append(row)
    return [_summed(found[i]) for i in range(len(columns))]


def _summed(groups: Sequence[Any]) -> Summed:
    if not groups:
        return Summed()
    total, squares = Fraction(0), Fraction(0)
    for group in groups:
        h, low, hh, hl, ll = ((int(group[f"p{i}u"]) << BLOCK) + int(group[f"p{i}l"]) for i in range(5))
        unit = Fraction(2) ** -group["s"]
        total += ((h << HALF) + low) * unit
        squares += ((hh << 2 * HALF) + (hl << HALF + 1) + ll) * unit**2
    # + 0.0: of -0.0 and 0.0, which are equal, either may come first.
    low, high = min(g["low"] for g in groups) + 0.0, max(g["high"] for g in groups) + 0.0
    return Summed(sum(g["count"] for g in groups), low, high, total, squares)


def quantiles(df: DataFrame, asked: Sequence[tuple[Column, Quantiles]]) -> list[tuple[float, ...] | None]:
    """Of each double column; None where all rows are null. One task holds each column's different values.

    Source: PERCENTILE_DISC of ISO/IEC 9075-2; Hyndman & Fan, "Sample Quantiles in Statistical Packages", 1996, 1.
    """
    if not asked:
        return []
    values = df.select(*(column.alias(f"x{i}") for i, (column, _) in enumerate(asked)))
    found = values.agg(
        *(
            F.expr(
                f"percentile_disc(array({', '.join(f'{p!r}D' for p in q.shares)})) WITHIN GROUP (ORDER BY x{i}) AS q{i}"
            )
            for i, (_, q) in enumerate(asked)
        )
    ).first()
    assert found is not None
    return [tuple(float(x) + 0.0 for x in values) if values is not None else None for values in found]


def counts(
    df: DataFrame, asked: Sequence[tuple[Column, Counts]], label: Column | None
) -> list[list[tuple[str, int, int]]]:
    """Of each column of arrays of texts: (text, how often it is there, Σ label of its rows).

    The most frequent first, of equally frequent ones the smaller text.
    """
    if not asked:
        return []
    numbered = [
        F.struct(F.lit(i).alias("i"), F.lit(c.limit).alias("top"), texts.alias("texts"))
        for i, (texts, c) in enumerate(asked)
    ]
    of_label = F.lit(0).cast("bigint") if label is None else label.cast("bigint")
    rows = df.select(of_label.alias("y"), F.explode(F.array(*numbered)).alias("n")).select("y", "n.*")
    texts = rows.select("y", "i", "top", F.explode("texts").alias("text")).where("text IS NOT NULL")
    grouped = texts.groupBy("i", "top", "text").agg(
        F.count("text").alias("count"), F.coalesce(F.sum("y"), F.lit(0)).alias("total")
    )
    rank = F.row_number().over(Window.partitionBy("i").orderBy(F.desc("count"), "text"))
    found: list[list[tuple[str, int, int]]] = [[] for _ in asked]
    for row in grouped.withColumn("rank", rank).where("rank <= top").orderBy("i", "rank").collect():
        found[row["i"]].append((row["text"], row["count"], row["total"]))
    return found
