"""Personal data of clean rows is dropped, pseudonymised or masked before anything of them is written.

Pseudonyms are computed by the JVM: HMAC is two SHA-256, `sha2(outer || unhex(sha2(inner || text)))`. `inner` and
`outer`, made of the key, come to the rows by a broadcast join with one row, not as literals, which plans, logs and
Spark's web pages would show. Text is masked in Arrow batches, since its patterns need checks that SQL lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, BooleanType, IntegralType, StringType, StructField, StructType

from penstock import personal
from penstock.card import Card
from penstock.errors import RecipeError
from penstock.privacy import KEY, Derive, Drop, Mask, Pseudonymise, PseudonymKey, Treatment, not_masked
from penstock.recipe import DatasetRecipe

FOUND = pa.schema({"name": pa.string(), "kind": pa.string(), "number": pa.int64()})
INNER, OUTER = "_inner_pad", "_outer_pad"


def protect(
    df: DataFrame, private: Mapping[str, Treatment], key: PseudonymKey | None, counted: Observation
) -> DataFrame:
    """The rows with every marked column treated; `counted` gets how many values that changed.

    Raises: RecipeError where a column is not there, or of a type that cannot be treated so.
    """
    if not private:
        return df
    _check_columns(df, private)
    df = df.drop(*_names(private, Drop))
    masked = {name: treatment.kinds for name, treatment in private.items() if isinstance(treatment, Mask)}
    pseudonyms = _names(private, Pseudonymise)
    if masked:
        df = _mask(df, masked)
    if pseudonyms:
        assert key is not None
        df = _pseudonymise(df, pseudonyms, key)
    counts = [F.count(F.col(f"`{name}`")).alias(name) for name in pseudonyms]
    flags = [_flag(name, kind) for name, kinds in masked.items() for kind in kinds]
    counts += [F.count_if(F.col(f"`{flag}`")).alias(flag) for flag in flags]
    if counts:
        df = df.observe(counted, *counts).drop(*flags)
    for name, treatment in private.items():
        if isinstance(treatment, Derive):
            df = df.withColumn(name, F.expr(treatment.expression))
    return df


def done(private: Mapping[str, Treatment], key: PseudonymKey | None, counted: Observation) -> dict[str, dict[str, Any]]:
    """What the card says of each column: how it was treated, and how many values that changed."""
    told: dict[str, dict[str, Any]] = {}
    for name, treatment in private.items():
        match treatment:
            case Drop():
                told[name] = {"kind": "drop"}
            case Pseudonymise():
                assert key is not None
                told[name] = {"kind": "pseudonymise", "key": key.fingerprint, "values": int(counted.get[name])}
            case Mask(kinds=kinds):
                values = {kind: int(counted.get[_flag(name, kind)]) for kind in kinds}
                told[name] = {"kind": "mask", "values": values}
            case Derive(expression):
                told[name] = {"kind": "derive", "expression": expression}
    return told


def added(told: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What `done` says of several pieces of raw data, as if they were one: counts add up, the rest is the same."""
    first, *others = told
    whole = {name: dict(treated) for name, treated in first.items()}
    for other in others:
        for name, treated in whole.items():
            match treated.get("values"):
                case int(values):
                    treated["values"] = values + other[name]["values"]
                case dict(values):
                    treated["values"] = {kind: n + other[name]["values"][kind] for kind, n in values.items()}
    return whole


def told(treated: Mapping[str, Any]) -> str:
    """What `done` says of a column, for a person."""
    match treated["kind"]:
        case "drop":
            return "dropped"
        case "pseudonymise":
            return f"pseudonymised in {treated['values']:,} values, with the key of fingerprint {treated['key']}"
        case "mask":
            return "masked: " + ", ".join(f"{kind} in {count:,} values" for kind, count in treated["values"].items())
        case _:
            return f"derived: {treated['expression']}"


def asked(recipe: DatasetRecipe, labelled: bool) -> dict[str, Treatment]:
    """What is marked in raw data with or without the label."""
    return {name: treatment for name, treatment in recipe.private.items() if labelled or name != recipe.schema.label}


def without_records(refused: DataFrame) -> DataFrame:
    return refused.withColumn("record", F.lit(None).cast("string"))


def without_values(raw: DataFrame) -> DataFrame:
    """Raw rows whose reason for being unreadable tells what was expected, not the value that was found."""
    expected = F.regexp_extract("_why", "(?s)^(.*?)found", 1)
    return raw.withColumn(
        "_why",
        F.when(F.col("_why").isNull(), None)
        .when(expected != "", F.concat(expected, F.lit("found something else")))
        .otherwise("the record cannot be read"),
    )


def _names(private: Mapping[str, Treatment], kind: type[Treatment]) -> list[str]:
    return [name for name, treatment in private.items() if isinstance(treatment, kind)]


def _flag(name: str, kind: str) -> str:
    return f"_{kind}_in_{name}"


def _check_columns(df: DataFrame, private: Mapping[str, Treatment]) -> None:
    types = {field.name: field.dataType for field in df.schema.fields}
    allowed = {Mask: (StringType,), Pseudonymise: (StringType, IntegralType, BinaryType)}
    for name, treatment in private.items():
        if isinstance(treatment, Derive):
            continue
        if name not in types:
            raise RecipeError(f"private: clean() gives no column {name!r}, there are {', '.join(types)}; mend the name")
        if not isinstance(types[name], allowed.get(type(treatment), object)):
            raise RecipeError(
                f"private: {type(treatment).__name__} cannot treat column {name!r}, which is "
                f"{types[name].simpleString()}; cast it to a string in clean()"
            )


def _mask(df: DataFrame, columns: Mapping[str, Collection[str]]) -> DataFrame:
    """The columns masked, and for each kind a column that says which rows it changed."""
    names = df.columns
    flags = [_flag(name, kind) for name, kinds in columns.items() for kind in kinds]

    def masked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            arrays = dict(zip(names, batch.columns, strict=True))
            for name, kinds in columns.items():
                arrays[name], changed = personal.mask(arrays[name], kinds)
                arrays |= {_flag(name, kind): which for kind, which in changed.items()}
            yield pa.RecordBatch.from_pydict(arrays)

    added = [StructField(flag, BooleanType(), nullable=False) for flag in flags]
    return df.mapInArrow(masked, StructType([*df.schema.fields, *added]))


def _pseudonymise(df: DataFrame, names: Collection[str], key: PseudonymKey) -> DataFrame:
    spark = df.sparkSession
    check_configuration(name for name, _ in spark.sparkContext.getConf().getAll())

    def pseudonym(name: str) -> Column:
        text = F.col(f"`{name}`")
        if not isinstance(df.schema[name].dataType, BinaryType):
            text = text.cast("string").cast("binary")
        inner = F.unhex(F.sha2(F.concat(F.col(INNER), text), 256))
        return F.sha2(F.concat(F.col(OUTER), inner), 256)

    padded = df.crossJoin(F.broadcast(_one_row(spark, {INNER: key.pads[0], OUTER: key.pads[1]})))
    return padded.withColumns({name: pseudonym(name) for name in names}).drop(INNER, OUTER)


def check_configuration(names: Iterable[str]) -> None:
    """Raises: RecipeError where one of the settings' names is that of the key."""
    if shown := [name for name in names if name.endswith(KEY)]:
        raise RecipeError(
            f"pseudonym key: Spark's configuration has {shown[0]}, which logs and web pages show; make another key and "
            f"name a file of it, as docs/operations.md says"
        )


def _one_row(spark: SparkSession, values: Mapping[str, bytes]) -> DataFrame:
    """Through the JVM's own interface: `createDataFrame` would send the values by way of a file."""
    jvm, gateway = spark._jvm, spark.sparkContext._gateway
    assert jvm is not None
    assert gateway is not None
    row = gateway.new_array(jvm.java.lang.Object, len(values))
    for i, value in enumerate(values.values()):
        row[i] = value
    schema = StructType([StructField(name, BinaryType(), nullable=False) for name in values])
    rows = jvm.java.util.ArrayList()
    rows.add(jvm.org.apache.spark.sql.RowFactory.create(row))
    jdf = spark._jsparkSession.createDataFrame(rows, spark._jsparkSession.parseDataType(schema.json()))
    return DataFrame(jdf, spark)


# Before publishing: what is not marked


def found(df: DataFrame, private: Mapping[str, Treatment], excepted: Collection[str]) -> dict[str, Counter[str]]:
    """What columns of strings hold, as `personal.found` counts it: a job of its own, for rows that are kept."""
    strings = [f.name for f in df.schema.fields if isinstance(f.dataType, StringType) and f.name not in excepted]
    look_for = {name: kinds for name in strings if (kinds := not_masked(private.get(name)))}
    if not look_for:
        return {}

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for name, kinds in look_for.items():
                counts = personal.found(batch.column(name), kinds)
                columns = [[name] * len(counts), list(counts), list(counts.values())]
                yield pa.RecordBatch.from_arrays(
                    [pa.array(c, t) for c, t in zip(columns, FOUND.types, strict=True)], schema=FOUND
                )

    totals: dict[str, Counter[str]] = {name: Counter() for name in look_for}
    rows = df.select(*(f"`{name}`" for name in look_for)).mapInArrow(count, "name string, kind string, number long")
    for row in rows.groupBy("name", "kind").sum("number").collect():
        totals[row["name"]][row["kind"]] = row["sum(number)"]
    return totals


def check_key(frozen: Card, key: PseudonymKey | None) -> None:
    """Raises: RecipeError where a column that a model reads has other pseudonyms than in the frozen version."""
    for name, treated in frozen.private.items():
        there = treated.get("key")
        if there and key and there != key.fingerprint and name != frozen.schema.key:
            raise RecipeError(
                f"--frozen: column {name!r} of version {frozen.version} has pseudonyms of the key with fingerprint "
                f"{there}, found one with {key.fingerprint}; give that key, or train on a version of the new one"
            )
