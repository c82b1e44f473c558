"""What is fitted and what values become, against plain Python, over 1, 2 and 7 partitions: JSON equal to the byte."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from tokenizers import Tokenizer

from etl import features
from etl.spark import user_errors
from penstock.errors import DatasetError, RecipeError
from penstock.schema import Field, Schema
from penstock.transforms import (
    Bucketise,
    BytePairs,
    Characters,
    Clip,
    Hashing,
    Impute,
    Index,
    Log,
    MinMax,
    Of,
    OneHot,
    Ordinal,
    Standardise,
    TargetMean,
    Transforms,
    Vocabulary,
)
from tests.etl.test_split import xxh64

X = Impute("x", 0.5)
NUMBERS: dict[str, Of] = {
    "mean": Standardise(Impute("x", "mean")),
    "median": MinMax(Impute("x", "median")),
    "log": Log(X),
    "clip": Clip(X, low=-2, high=100),
    "winsorised": Standardise(Clip(X, quantiles=(0.1, 0.9))),
    "borders": Bucketise(X, borders=(-1.0, 0.0, 2.5)),
    "quartiles": Bucketise(X, quantiles=4),
    "plain": "flag",
    "kind": OneHot("kind"),
    "quartile": OneHot(Bucketise(X, quantiles=4)),
    "ordinal": Ordinal("city"),
    "hashing": Hashing("city", 7),
    "rank": Vocabulary("city", 2),
    "target": TargetMean("kind", smoothing=3.0),
}
SCHEMA = Schema(
    (
        Field("id", "int64"),
        Field("features", "float32", (None,)),
        Field("tokens", "int32", (None,)),
        Field("city", "int64"),
        Field("label", "int64"),
    ),
    key="id",
    label="label",
)
TRANSFORMS: Transforms = {
    "features": tuple(NUMBERS.values()),
    "tokens": Vocabulary("tokens", 3),
    "city": Ordinal("city"),
}
ROW = st.fixed_dictionaries(
    {
        "x": st.one_of(
            st.none(), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf])
        ),
        "kind": st.one_of(st.none(), st.integers(-2, 11)),
        "city": st.one_of(st.none(), st.sampled_from(["", "Rom", "Bern", "a'b\"c\\", "\U0001f600", "\ue000"])),
        "tokens": st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from("abcde")), max_size=5)),
        "flag": st.booleans(),
        "label": st.integers(0, 1),
    }
)
COLUMNS = pa.schema(
    {
        "id": pa.int64(),
        "x": pa.float64(),
        "kind": pa.int32(),
        "city": pa.string(),
        "tokens": pa.list_(pa.string()),
        "flag": pa.bool_(),
        "label": pa.int64(),
    }
)
Row = dict[str, Any]


def frame(spark: SparkSession, rows: list[Row]) -> DataFrame:
    return spark.createDataFrame(pa.Table.from_pylist([{"id": i, **row} for i, row in enumerate(rows)], schema=COLUMNS))


def number(row: Row) -> float | None:
    return row["x"] if row["x"] is not None and math.isfinite(row["x"]) else None


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def oracle(train: list[Row]) -> dict[str, Callable[[Row], list[float]]]:
    """What docs and docstrings say, in plain Python: name of NUMBERS -> the elements of a row."""
    known = [x for row in train if (x := number(row)) is not None]
    filled = [0.5 if (x := number(row)) is None else x for row in train]

    def imputed(value: float) -> Callable[[Row], float]:
        return lambda row: value if (x := number(row)) is None else x

    def deviation(values: list[float]) -> float:
        return math.sqrt(statistics.pvariance([Fraction(x) for x in values])) or 1.0

    mean = float(sum(map(Fraction, known), Fraction(0)) / len(known))
    by_mean, by_median, by_half = imputed(mean), imputed(quantile(known, 0.5)), imputed(0.5)
    all_by_mean, all_by_median = [by_mean(row) for row in train], [by_median(row) for row in train]
    low, high = quantile(filled, 0.1), quantile(filled, 0.9)
    clipped = [min(max(x, low), high) for x in filled]
    quartiles = sorted({quantile(filled, share) for share in (0.25, 0.5, 0.75)})
    kinds = sorted({row["kind"] for row in train} - {None})
    cities = sorted({row["city"] for row in train} - {None})
    ranks = sorted(
        Counter(row["city"] for row in train if row["city"] is not None).items(), key=lambda c: (-c[1], c[0])
    )
    labels = [(row["kind"], row["label"]) for row in train if row["kind"] is not None]
    overall = statistics.fmean(label for _, label in labels)
    buckets = sorted({sum(border <= x for border in quartiles) for x in filled})

    def target(row: Row) -> float:
        own = [label for kind, label in labels if kind == row["kind"]]
        return (sum(own) + 3 * overall) / (len(own) + 3)

    def place(value: object, places: list[Any]) -> float:
        return places.index(value) + 1 if value in places else 0

    def min_max(x: float) -> float:
        below, above = min(all_by_median), max(all_by_median)
        return min(max((x - below) / (above - below or 1.0), 0), 1)

    def standardised(x: float, values: list[float]) -> float:
        return (x - statistics.fmean(values)) / deviation(values)

    return {
        "mean": lambda row: [standardised(by_mean(row), all_by_mean)],
        "median": lambda row: [min_max(by_median(row))],
        "log": lambda row: [math.copysign(math.log1p(abs(by_half(row))), by_half(row))],
        "clip": lambda row: [min(max(by_half(row), -2), 100)],
        "winsorised": lambda row: [standardised(min(max(by_half(row), low), high), clipped)],
        "borders": lambda row: [np.searchsorted([-1, 0, 2.5], by_half(row), side="right")],
        "quartiles": lambda row: [np.searchsorted(quartiles, by_half(row), side="right")],
        "plain": lambda row: [row["flag"]],
        "kind": lambda row: [row["kind"] == kind for kind in kinds],
        "quartile": lambda row: [np.searchsorted(quartiles, by_half(row), side="right") == b for b in buckets],
        "ordinal": lambda row: [place(row["city"], cities)],
        "hashing": lambda row: [0 if row["city"] is None else 1 + xxh64(row["city"].encode(), 42) % 7],
        "rank": lambda row: [place(row["city"], [city for city, _ in ranks[:2]])],
        "target": lambda row: [target(row)],
    }


@pytest.mark.slow
@settings(max_examples=2)
@given(
    st.lists(ROW, min_size=12, max_size=40), st.lists(ROW, min_size=1, max_size=20), st.randoms(use_true_random=False)
)
def test_fitted_and_applied_as_plain_python_does_it(
    spark: SparkSession, train: list[Row], new: list[Row], rng: random.Random
) -> None:
    train = [{**row, "x": 1.5, "kind": 3} if i == 0 else row for i, row in enumerate(train)]  # something to fit on
    shuffled = rng.sample(train, len(train))
    frames = [
        frame(spark, train).coalesce(1),
        frame(spark, shuffled).repartition(2),
        frame(spark, shuffled).repartition(7),
    ]
    one, two, seven = (json.dumps(features.fit(df, TRANSFORMS, "label")) for df in frames)
    assert one == two == seven

    fitted = json.loads(one)
    schema = features.resolved(SCHEMA, fitted)
    rows = features.apply(frame(spark, train + new), fitted, schema).orderBy("id").collect()
    expected = oracle(train)
    tokens = sorted(Counter(t for row in train for t in row["tokens"] or [] if t).items(), key=lambda t: (-t[1], t[0]))
    ranks = {token: i for i, (token, _) in enumerate(tokens[:3], 1)}
    cities = sorted({row["city"] for row in train} - {None})
    for raw, row in zip(train + new, rows, strict=True):
        elements = [x for values in expected.values() for x in values(raw)]
        np.testing.assert_allclose(np.frombuffer(row["features"], "<f4"), elements, rtol=1e-5, atol=1e-5)
        assert row["tokens"] == [ranks.get(token, 0) for token in raw["tokens"] or []]
        assert row["city"] == (cities.index(raw["city"]) + 1 if raw["city"] in cities else 0)
    assert schema["features"].shape == (len(fitted["features"]["elements"]),) == (len(elements),)


TEXTS = ["to be or not to be", "To be, wörld €  \n x", "", None, "be be be <no token>", "oh to be"]
SPOKEN = Schema(
    (Field("id", "int64"), Field("letters", "int32", (None,)), Field("pairs", "int32", (None,))), key="id", label=None
)


def test_texts_become_tokens_by_what_the_training_rows_have(spark: SparkSession) -> None:
    of_texts: Transforms = {"letters": Characters("text"), "pairs": BytePairs("text", 262)}
    rows = [(i, text) for i, text in enumerate(TEXTS)]
    frames = [spark.createDataFrame(rows[::step], "id long, text string") for step in (1, -1)]
    one, two, three = (
        json.dumps(features.fit(df, of_texts, None))
        for df in (frames[0].coalesce(1), frames[1].repartition(2), frames[0].repartition(5))
    )
    assert one == two == three

    fitted = json.loads(one)
    new = [*rows, (6, "zebra to be"), (7, "\U0001f600")]
    df = spark.createDataFrame(new, "id long, text string").repartition(3)
    found = features.apply(df, fitted, features.resolved(SPOKEN, fitted)).orderBy("id").collect()
    known = sorted({letter for text in TEXTS for letter in text or ""})
    bpe = Tokenizer.from_str(json.dumps(fitted["pairs"]["tokenizer"]))
    for (_, text), row in zip(new, found, strict=True):
        assert row["letters"] == [known.index(c) + 2 if c in known else 1 for c in text or ""]
        assert 0 not in row["pairs"]
        assert bpe.decode(row["pairs"]) == (text or "")
    assert bpe.get_vocab_size() == 262
    # "be" with its blank is there most often, and is one token; learnt from 8 " be" and 2 "be"
    assert bpe.encode("to be").tokens[-1] == "Ġbe"
    assert len(found[4]["pairs"]) < len("be be be <no token>")


def catalogue(rows: str) -> Callable[[SparkSession, str], DataFrame]:
    """A table that a recipe might read: film and genres, in no order."""
    return lambda spark, raw_url: spark.sql(f"select * from values {rows} as t(film, genres) /* {raw_url} */")


FILMS = catalogue("(10, array('Drama')), (9, array()), (null, array()), (200, array('Short', 'War'))")
SEEN = Schema(
    (Field("id", "int64"), Field("films", "int32", (None,)), Field("film", "int64"), Field("pack", "float32", (None,))),
    key="id",
)


def test_places_in_a_catalogue_that_the_training_rows_need_not_have(spark: SparkSession) -> None:
    of_films: Transforms = {
        "films": Index("films", FILMS, "film"),
        "film": Index("film", FILMS, "film"),
        "pack": (Index("film", FILMS, "film"), OneHot(Index("film", FILMS, "film"))),
    }
    rows = [(1, [9, 10, 9], 10), (2, [], None), (3, None, 11)]
    frames = [spark.createDataFrame(rows[::step], "id long, films array<int>, film int") for step in (1, -1)]
    one, two = (json.dumps(features.fit(df, of_films, None, "raw")) for df in (frames[0], frames[1].repartition(3)))
    assert one == two
    fitted = json.loads(one)
    assert fitted["films"]["values"] == ["9", "10", "200"]  # by value, not by text
    assert fitted["films"]["table"] == {"genres": [[], ["Drama"], ["Short", "War"]]}

    new = spark.createDataFrame([*rows, (4, [200, 7], 200)], "id long, films array<int>, film int")
    found = features.apply(new, fitted, features.resolved(SEEN, fitted)).orderBy("id").collect()
    assert [row["films"] for row in found] == [[1, 2, 1], [], [], [3, 0]]
    assert [row["film"] for row in found] == [2, 0, 0, 3]
    packed = [np.frombuffer(row["pack"], "<f4").tolist() for row in found]
    assert packed == [[2, 0, 1], [0, 1, 0], [0, 1, 0], [3, 0, 0]]


@pytest.mark.parametrize(
    ("table", "to", "message"),
    [
        (FILMS, "id", "its table has no column 'id', but film, genres"),
        (FILMS, "genres", "expected strings, integers, bools or dates in its table"),
        (catalogue("(1, 'a'), (2, 'b'), (1, 'c')"), "film", "its table has '1' twice; give each value one row"),
        (catalogue("(1, date'2020-01-01')"), "film", "its table holds what JSON does not.*cast it"),
        (catalogue("(1, double('nan'))"), "film", "its table holds what JSON does not.*cast it"),
    ],
)
def test_a_table_without_an_order_is_said(spark: SparkSession, table: Any, to: str, message: str) -> None:
    df = spark.createDataFrame([(1,)], "film int")
    with pytest.raises(RecipeError, match=message):
        features.fit(df, {"film": Index("film", table, to)}, None)


def test_a_person_can_read_what_an_element_is(spark: SparkSession) -> None:
    df = spark.createDataFrame([(20, "Rom"), (30, "Bern"), (40, "Rom")], "age int, city string")
    fitted = features.fit(df, {"features": ("age", Standardise(Log("age")), OneHot("city"))}, None)
    assert fitted["features"]["elements"] == [
        "age",
        "standardise(log(age))",
        "one_hot(city) = Bern",
        "one_hot(city) = Rom",
    ]
    assert features.fit(df, {"age": MinMax("age")}, None) == {
        "age": {"kind": "min_max", "of": "age", "low": 20.0, "high": 40.0}
    }


def test_a_null_that_nobody_imputes_is_named(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, 1.0), (2, None), (3, float("nan"))], "id long, x double")
    schema = Schema((Field("id", "int64"), Field("features", "float32", (None,))), key="id")
    made: list[Of] = [Standardise("x"), MinMax("x"), Log("x"), Clip("x", low=0), Bucketise("x", borders=(0.0,)), "x"]
    for part in made:
        fitted = features.fit(df, {"features": ("id", part)}, None)
        message = r"field 'features': features\[1\], .*x\)?, is null in a row; .*Impute"
        with pytest.raises(RecipeError, match=message), user_errors("raw", "out"):
            features.apply(df, fitted, features.resolved(schema, fitted)).collect()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Characters("x"), "expected strings, found double"),
        (Standardise("city"), "expected numbers, found string; convert it in clean"),
        (OneHot("x"), "expected strings, integers, bools or dates, found double"),
        (Impute("none", "mean"), "null in all rows of the training split"),
        (Impute("none", "median"), "null in all rows of the training split"),
        (TargetMean("none_at_all"), "null in all rows of the training split"),
        (OneHot("many"), "more than 1,000 categories; use Vocabulary or Hashing"),
        (Standardise("huge"), r"has 1e\+200, more than 1e\+100"),
        (Standardise("missing"), "asks Spark for what it cannot do"),
    ],
)
def test_what_cannot_be_fitted_is_said(spark: SparkSession, part: Of, message: str) -> None:
    df = spark.range(1001).selectExpr(
        *("id", "'a' city", "0.5D x", "cast(null as double) none", "cast(null as string) none_at_all"),
        *("cast(id as string) many", "if(id = 5, 1e200D, 1D) huge", "1 label"),
    )
    with pytest.raises(RecipeError, match=message), user_errors("raw", "out"):
        features.fit(df, {"features": (part,)}, "label")


def test_a_constant_and_an_empty_column_divide_by_nothing(spark: SparkSession) -> None:
    df = spark.range(3).selectExpr("id", "7 x", "cast(null as double) y")
    fitted = features.fit(df, {"a": (Standardise("x"), MinMax("x"), Standardise("y"))}, None)["a"]["of"]
    assert [(f["mean"], f["std"]) for f in fitted if f["kind"] == "standardise"] == [(7.0, 1.0), (0.0, 1.0)]
    assert (fitted[1]["low"], fitted[1]["high"]) == (7.0, 7.0)


def test_a_size_that_the_schema_says_must_be_what_is_made(spark: SparkSession) -> None:
    fitted: dict[str, Any] = {"features": {"kind": "pack", "elements": ["a", "b"], "of": ["a", "b"]}}
    with pytest.raises(RecipeError, match=r"'features' has 2 elements, the schema says shape \(3,\)"):
        features.resolved(Schema((Field("id", "int64"), Field("features", "float32", (3,))), key="id"), fitted)


def test_a_card_of_a_later_penstock_is_said(spark: SparkSession) -> None:
    schema = Schema((Field("id", "int64"), Field("x", "float64")), key="id")
    with pytest.raises(DatasetError, match="unknown kind 'rotate'; use the Penstock that fitted them"):
        features.apply(spark.range(1), {"x": {"kind": "rotate", "of": "id"}}, schema)
