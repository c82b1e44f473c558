"""Fits a recipe's transforms on the training rows, and makes fields of rows by what was fitted, whenever that was.

What is fitted is plain JSON, which the card keeps; rows are transformed by Spark expressions made of that JSON alone:
`--frozen` does to new rows what was done to those that trained. penstock/transforms.py says what each one does.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import arrow_udf

from etl import exact, publish
from etl.transform import pack
from penstock import tokens
from penstock.errors import DatasetError, RecipeError
from penstock.fit import mean_and_std
from penstock.schema import Field, Schema
from penstock.transforms import (
    MAX_CATEGORIES,
    MAX_ONE_HOT,
    MAX_WORDS,
    OF_NUMBERS,
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
    Transform,
    Transforms,
    Vocabulary,
)

JSON = dict[str, Any]
Fitted = str | Mapping[str, Any]  # a column's name, or what was fitted of a transform

LARGEST = 1e100  # beyond it squares, sums and spreads may leave a double
CATEGORIES = (T.StringType, T.IntegralType, T.BooleanType, T.DateType)
KINDS = {
    Standardise: "standardise",
    MinMax: "min_max",
    Log: "log",
    Clip: "clip",
    Impute: "impute",
    Bucketise: "bucketise",
    OneHot: "one_hot",
    Ordinal: "ordinal",
    Vocabulary: "vocabulary",
    Index: "index",
    Hashing: "hashing",
    TargetMean: "target_mean",
    Characters: "characters",
    BytePairs: "byte_pairs",
}


def fit(train: DataFrame, transforms: Transforms, label: str | None, raw_url: str = "") -> dict[str, JSON]:
    """Field -> what was fitted. As many rounds as transforms are nested, of at most three Spark jobs each.

    `raw_url` is where the tables of `Index` lie.

    Raises: RecipeError where a column is missing or of another type than its transform takes, where there is nothing
    to fit on, and where a column has too many categories.
    """
    wholes = [part for parts in transforms.values() for part in (parts if isinstance(parts, tuple) else (parts,))]
    waiting = list(dict.fromkeys(part for whole in wholes for part in _inside(whole)))
    indices = {(part.table, part.to): part for part in waiting if isinstance(part, Index)}
    tables = {which: _table(part, train.sparkSession, raw_url) for which, part in indices.items()}
    found: dict[Transform, JSON] = {}

    def known(part: Of) -> Fitted:
        return part if isinstance(part, str) else found[part]

    while waiting:
        ready = [part for part in waiting if isinstance(part.of, str) or part.of in found]
        found |= _fit(train, ready, {part: known(part.of) for part in ready}, label, tables)
        waiting = [part for part in waiting if part not in found]
    fitted: dict[str, JSON] = {}
    for name, whole in transforms.items():
        if isinstance(whole, tuple):
            of = [known(part) for part in whole]
            fitted[name] = {"kind": "pack", "elements": [e for part in of for e in element_names(part)], "of": of}
        else:
            fitted[name] = found[whole]
    return fitted


def _inside(part: Of) -> Iterator[Transform]:
    """A transform and those in it, the innermost first."""
    if not isinstance(part, str):
        yield from _inside(part.of)
        yield part


def _fit(
    train: DataFrame,
    parts: Sequence[Transform],
    of: Mapping[Transform, Fitted],
    label: str | None,
    tables: Mapping[Any, JSON],
) -> dict[Transform, JSON]:
    columns = {part: _column(of[part]) for part in parts}
    kinds = train.select(*(column.alias(f"x{i}") for i, column in enumerate(columns.values()))).schema.fields
    types = {part: field.dataType for part, field in zip(parts, kinds, strict=True)}
    for part in parts:
        _check_type(part, types[part])
    asked = {part: ask for part in parts if (ask := _asks(part)) is not None}

    def of_kind(kind: type) -> list[Transform]:
        return [part for part, ask in asked.items() if isinstance(ask, kind)]

    def pairs(kind: type, made: Any) -> list[tuple[Column, Any]]:
        return [(made(part, columns[part], types[part]), asked[part]) for part in of_kind(kind)]

    numbers = [column for column, _ in pairs(exact.Moments, lambda _, x, __: _number(x))]
    answers: dict[Transform, Any] = dict(zip(of_kind(exact.Moments), exact.moments(train, numbers), strict=True))
    quantiles = exact.quantiles(train, pairs(exact.Quantiles, lambda _, x, __: _number(x)))
    answers |= zip(of_kind(exact.Quantiles), quantiles, strict=True)
    y = F.col(_quoted(label)) if label is not None and any(isinstance(part, TargetMean) for part in parts) else None
    answers |= zip(of_kind(exact.Counts), exact.counts(train, pairs(exact.Counts, _texts), y), strict=True)
    answers |= {part: tables[part.table, part.to] for part in parts if isinstance(part, Index)}
    return {
        part: {"kind": KINDS[type(part)], "of": of[part], **_fitted(part, answers.get(part), types[part])}
        for part in parts
    }


def _asks(part: Transform) -> exact.Ask | None:
    match part:
        case Standardise() | MinMax() | Impute(value="mean"):
            return exact.Moments()
        case Impute(value="median"):
            return exact.Quantiles((0.5,))
        case Clip(quantiles=(low, high)):
            return exact.Quantiles((low, high))
        case Bucketise(quantiles=int(count)):
            return exact.Quantiles(tuple(i / count for i in range(1, count)))
        case OneHot():
            return exact.Counts(MAX_ONE_HOT + 1)
        case Ordinal() | TargetMean():
            return exact.Counts(MAX_CATEGORIES + 1)
        case Characters():
            return exact.Counts(MAX_CATEGORIES + 1)
        case BytePairs():
            return exact.Counts(MAX_WORDS)
        case Vocabulary():
            return exact.Counts(part.size)
    return None


def _fitted(part: Transform, answer: Any, kind: T.DataType) -> JSON:
    """The figures that the transform's expression needs, from what it asked for."""
    if isinstance(answer, exact.Summed) and max(-answer.low, answer.high) > LARGEST:
        raise RecipeError(
            f"transforms: {part}: a training row has {max(answer.high, -answer.low):g}, more than {LARGEST:g}; refuse "
            f"such rows with a rule, or Clip them"
        )
    match part:
        case Standardise():
            return mean_and_std(answer.count, answer.total, answer.squares)
        case MinMax():
            return {"low": answer.low, "high": answer.high}
        case Impute(value="mean"):
            _check_any(part, answer.count)
            return {"value": float(answer.total / answer.count)}
        case Impute(value="median"):
            _check_any(part, answer)
            return {"value": answer[0]}
        case Impute():
            return {"value": float(part.value)}
        case Clip():
            if part.quantiles:
                _check_any(part, answer)
            low, high = answer if part.quantiles else (part.low, part.high)
            return {"low": low if low is None else float(low), "high": high if high is None else float(high)}
        case Bucketise():
            if part.quantiles:
                _check_any(part, answer)
            return {"borders": sorted({float(border) for border in answer or part.borders})}
        case OneHot() | Ordinal():
            return {"categories": _in_order(part, answer, kind)}
        case Vocabulary():
            return {"tokens": [text for text, _, _ in answer], "list": isinstance(kind, T.ArrayType)}
        case Index():
            return {**answer, "list": isinstance(kind, T.ArrayType)}
        case Characters():
            return {"tokenizer": tokens.characters(_in_order(part, answer, kind))}
        case BytePairs():
            return {"tokenizer": tokens.byte_pairs([(piece, count) for piece, count, _ in answer], part.size)}
        case Hashing():
            return {"buckets": part.buckets}
        case TargetMean():
            _check_any(part, answer)
            count, total = sum(n for _, n, _ in answer), sum(y for _, _, y in answer)
            mean = total / count
            categories = _in_order(part, answer, kind)
            means = {text: (y + part.smoothing * mean) / (n + part.smoothing) for text, n, y in answer}
            return {"mean": mean, "categories": categories, "means": [means[text] for text in categories]}
    return {}


def _in_order(part: Transform, answer: Sequence[tuple[str, int, int]], kind: T.DataType) -> list[str]:
    """The categories as text: integers by their value, all others by their characters."""
    most = MAX_ONE_HOT if isinstance(part, OneHot) else MAX_CATEGORIES
    if len(answer) > most:
        raise RecipeError(f"transforms: {part}: there are more than {most:,} categories; use Vocabulary or Hashing")
    texts = [text for text, _, _ in answer]
    return sorted(texts, key=int) if isinstance(kind, T.IntegralType) else sorted(texts)


def _table(part: Index, spark: SparkSession, raw_url: str) -> JSON:
    """The values that are looked up, in their order, as text, and the table's other columns."""
    rows = part.table(spark, raw_url)
    if part.to not in rows.columns:
        raise RecipeError(f"transforms: {part}: its table has no column {part.to!r}, but {', '.join(rows.columns)}")
    kind = rows.schema[part.to].dataType
    if not isinstance(kind, CATEGORIES):
        raise RecipeError(f"transforms: {part}: expected strings, integers, bools or dates in its table, found {kind}")
    text = F.col(_quoted(part.to)).cast("string").alias(part.to)
    others = [name for name in rows.columns if name != part.to]
    known = rows.select(text, *map(_quoted, others)).where(F.col(_quoted(part.to)).isNotNull())
    found = [row.asDict() for row in known.limit(MAX_CATEGORIES + 1).collect()]
    values = _in_order(part, [(row[part.to], 1, 0) for row in found], kind)
    if twice := [a for a, b in pairwise(values) if a == b]:
        raise RecipeError(f"transforms: {part}: its table has {twice[0]!r} twice; give each value one row")
    by_value = {row[part.to]: row for row in found}
    table = {"values": values, "table": {name: [by_value[value][name] for value in values] for name in others}}
    try:
        json.dumps(table, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"transforms: {part}: its table holds what JSON does not: {error}; cast it") from error
    return table


def _check_any(part: Transform, found: object) -> None:
    if not found:
        raise RecipeError(f"transforms: {part}: null in all rows of the training split; there is nothing to fit on")


def _check_type(part: Transform, kind: T.DataType) -> None:
    if isinstance(part, OF_NUMBERS):
        fits, expected = isinstance(kind, T.NumericType | T.BooleanType), "numbers"
    elif isinstance(part, Characters | BytePairs):
        fits, expected = isinstance(kind, T.StringType), "strings"
    else:
        inside = kind.elementType if isinstance(part, Vocabulary | Index) and isinstance(kind, T.ArrayType) else kind
        fits, expected = isinstance(inside, CATEGORIES), "strings, integers, bools or dates"
    if not fits:
        raise RecipeError(
            f"transforms: {part}: expected {expected}, found {kind.simpleString()}; convert it in clean()"
        )


# From what was fitted to expressions


def element_names(fitted: Fitted) -> list[str]:
    """What each element is, for people: `standardise(log(amount))`, `one_hot(city) = Rom`."""
    if isinstance(fitted, str):
        return [fitted]
    (inner,) = element_names(fitted["of"])
    name = f"{fitted['kind']}({inner})"
    return [f"{name} = {c}" for c in fitted["categories"]] if fitted["kind"] == "one_hot" else [name]


def resolved(schema: Schema, fitted: Mapping[str, Mapping[str, Any]]) -> Schema:
    """The schema as it is published: tensors have as many elements as their transforms give.

    Raises: RecipeError where the recipe says another number.
    """

    def sized(field: Field) -> Field:
        if fitted.get(field.name, {}).get("kind") != "pack":
            return field
        shape = (len(fitted[field.name]["elements"]),)
        if field.shape not in (shape, (None,)) or not shape[0]:
            raise RecipeError(
                f"transforms: {field.name!r} has {shape[0]} elements, the schema says shape {field.shape}; make it "
                f"(None,), and name a column or transform that gives some"
            )
        return Field(field.name, field.dtype, shape)

    return Schema(tuple(sized(field) for field in schema.fields), key=schema.key, label=schema.label)


def apply(df: DataFrame, fitted: Mapping[str, JSON], schema: Schema, keep: Sequence[str] = ()) -> DataFrame:
    """Rows with the resolved schema's columns and those to `keep`.

    Raises: RecipeError, when rows are made, where a number is null.
    """
    columns = [F.col(_quoted(name)) for name in (*schema.names, *keep) if name not in fitted]
    packs: dict[str, list[str]] = {}
    for name, made_of in fitted.items():
        if made_of["kind"] == "pack":
            elements = [_number(element) for part in made_of["of"] for element in _elements(part)]
            # A name that says what it is, should a row have none.
            packs[name] = [f"{name}[{i}], {what}" for i, what in enumerate(made_of["elements"])]
            columns += [element.alias(alias) for element, alias in zip(elements, packs[name], strict=True)]
        else:
            columns.append(_column(made_of).cast(publish.spark_type(schema[name])).alias(name))
    df = df.select(*columns)
    for name, aliases in packs.items():
        df = pack(df, aliases, into=schema[name])
    return df


def _elements(fitted: Fitted) -> list[Column]:
    if isinstance(fitted, str) or fitted["kind"] != "one_hot":
        return [_column(fitted)]
    text = _column(fitted["of"]).cast("string")
    return [F.coalesce(text == F.lit(category), F.lit(False)) for category in fitted["categories"]]


def _column(fitted: Fitted) -> Column:
    """The one column that this gives."""
    if isinstance(fitted, str):
        return F.col(_quoted(fitted))
    of, kind = _column(fitted["of"]), fitted["kind"]
    if kind in tokens.KINDS:
        return _by_arrow(partial(tokens.encode, tokenizer=json.dumps(fitted["tokenizer"])), "array<int>")(of)
    x, text = _number(of) if isinstance(fitted["of"], str) else of.cast("double"), of.cast("string")
    match kind:
        case "standardise":
            return (x - F.lit(fitted["mean"])) / F.lit(fitted["std"])
        case "min_max":
            spread = fitted["high"] - fitted["low"] or 1.0
            return _clip((x - F.lit(fitted["low"])) / F.lit(spread), 0.0, 1.0)
        case "log":
            return F.signum(x) * F.log1p(F.abs(x))
        case "clip":
            return _clip(x, fitted["low"], fitted["high"])
        case "impute":
            return F.coalesce(x, F.lit(fitted["value"]))
        case "bucketise":
            borders = F.array(*(F.lit(border) for border in fitted["borders"]))
            return F.when(x.isNotNull(), F.size(F.filter(borders, lambda border: border <= x)))
        case "ordinal":
            return _looked_up(text, {c: i for i, c in enumerate(fitted["categories"], 1)}, 0)
        case "vocabulary" | "index":
            ranks = {token: i for i, token in enumerate(fitted["tokens" if kind == "vocabulary" else "values"], 1)}
            if not fitted["list"]:
                return _looked_up(text, ranks, 0)
            listed = F.coalesce(of.cast("array<string>"), F.array().cast("array<string>"))
            return F.transform(listed, lambda token: _looked_up(token, ranks, 0))
        case "hashing":
            bucket = F.pmod(F.xxhash64(text), F.lit(fitted["buckets"])) + F.lit(1)
            return F.when(text.isNull(), F.lit(0)).otherwise(bucket)
        case "target_mean":
            means = dict(zip(fitted["categories"], fitted["means"], strict=True))
            return _looked_up(text, means, fitted["mean"])
    raise DatasetError(f"transforms: unknown kind {kind!r}; use the Penstock that fitted them")


def _clip(x: Column, low: float | None, high: float | None) -> Column:
    above = x if low is None else F.greatest(x, F.lit(low))
    clipped = above if high is None else F.least(above, F.lit(high))
    return F.when(x.isNotNull(), clipped)  # `least` and `greatest` pass over null


def _number(x: Column) -> Column:
    """As a double; NaN and the infinities, of which no other number can be made, are null."""
    double = x.cast("double")
    return F.when(F.abs(double) < F.lit(float("inf")), double)  # NaN is the largest double in Spark


def _texts(part: Transform, x: Column, kind: T.DataType) -> Column:
    if isinstance(part, Characters | BytePairs):
        return _by_arrow(partial(tokens.pieces, kind=KINDS[type(part)]), "array<string>")(x)
    return x.cast("array<string>") if isinstance(kind, T.ArrayType) else F.array(x.cast("string"))


def _by_arrow(function: Callable[[pa.Array], pa.Array], kind: str) -> Callable[[Column], Column]:
    """A function of Arrow arrays, one value for each, as one of columns."""

    def called(values: pa.Array) -> pa.Array:
        return function(values)

    return arrow_udf(called, kind)  # type: ignore[call-overload, no-any-return]


def _looked_up(text: Column, table: Mapping[str, Any], otherwise: float) -> Column:
    """The text's value in a constant table, in constant time: Spark looks through a map from its beginning.

    So the table is as many maps as it has entries, chosen by CRC-32; Spark makes it once for all rows.
    """
    maps: list[dict[str, Any]] = [{} for _ in range(max(1, len(table)))]
    for key, value in table.items():
        maps[zlib.crc32(key.encode()) % len(maps)][key] = value
    kind = "double" if isinstance(otherwise, float) else "int"
    constant = F.from_json(F.lit(json.dumps(maps)), f"array<map<string,{kind}>>")
    place = F.pmod(F.crc32(text.cast("binary")), F.lit(len(maps))).cast("int")
    return F.coalesce(F.try_element_at(F.get(constant, place), text), F.lit(otherwise))


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
