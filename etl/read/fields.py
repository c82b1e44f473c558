"""Text records as typed columns, and of those that cannot be read what is wrong: shared by csv and JSON lines.

Spark's parsers read a record in its types at once. Only where that fails the record is read again as text, field by
field: to take an integer that is written as a decimal, or to say what is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from penstock.errors import RecipeError

CORRUPT = "_corrupt"
INTEGERS = {"tinyint", "byte", "smallint", "short", "int", "integer", "bigint", "long"}
NESTED = ("array", "map", "struct", "binary", "variant")
SHOWN_CHARACTERS = 100
NO_TEXT = "expected UTF-8 text, found other bytes; is it another `encoding`?"


def typed(
    records: DataFrame,
    columns: Mapping[str, str],
    row: Column,
    text: Column,
    problem: Column,
    *,
    doubt: Column | None = None,
    broken: Mapping[str, Column] | None = None,
    nullable: Collection[str] = (),
    nulls: Collection[str] = (),
) -> DataFrame:
    """The columns of records as `lines` gives them, and whether and why a record is malformed.

    `row` is the record as a struct of the columns in their types, with CORRUPT, which is not null where a field could
    not be read; `text` the same of strings. Only where `row` lacks something, `doubt` is true, or one of `nulls` is
    somewhere in the record, `text` is asked, and `problem`, which says in terms of `_text` what is wrong with the
    record as a whole, or is null. `broken` is true where a nested value, of which `row` may hold a part, is not of its
    type.
    """
    records = records.withColumns({"_row": row, "_is_text": F.is_valid_utf8("value")})
    required = must_be_there(columns, nullable)
    doubts = [
        F.col("_problem").isNotNull(),
        ~F.col("_is_text"),
        F.col("_row").getField(CORRUPT).isNotNull(),
        *(F.col("_row").getField(name).isNull() for name in required),
        *([] if doubt is None else [doubt]),
        *(F.contains("value", F.lit(text)) for text in nulls if text),  # Spark may have read it as a value
    ]
    records = records.withColumn("_is_doubtful", reduce(Column.__or__, doubts))
    records = records.withColumn("_text", F.when(F.col("_is_doubtful"), text))
    texts = {name: _known(F.col("_text").getField(name), nulls) for name in columns}
    values = {}
    for name, kind in columns.items():
        value, is_null = F.col("_row").getField(name), F.col("_text").getField(name).isin(*nulls)
        values[name] = F.when(~F.coalesce(is_null, F.lit(False)), _value(value, texts[name], kind))
    wrong = {
        name: values[name].isNull() if name in required else values[name].isNull() & texts[name].isNotNull()
        for name in columns
    }
    wrong |= {name: wrong[name] | is_broken for name, is_broken in (broken or {}).items()}
    problem = F.coalesce(F.col("_problem"), F.when(~F.col("_is_text"), NO_TEXT), problem)
    malformed = F.col("_is_doubtful") & (problem.isNotNull() | reduce(Column.__or__, wrong.values()))
    mistyped = F.concat_ws("; ", *(F.when(wrong[name], _mistyped(name, kind)) for name, kind in columns.items()))
    return records.select(
        *(value.alias(name) for name, value in values.items()),
        "_file",
        "_position",
        F.make_valid_utf8("value").alias("_record"),
        malformed.alias("_malformed"),
        F.when(malformed, F.coalesce(problem, mistyped)).alias("_why"),
    )


def must_be_there(columns: Collection[str], nullable: Collection[str]) -> list[str]:
    """The columns that are not nullable. Raises: RecipeError where `nullable` names none of the columns."""
    if unknown := sorted(set(nullable) - set(columns)):
        raise RecipeError(f"nullable: there is no column {unknown[0]!r} among {', '.join(columns)}; mend the name")
    return [name for name in columns if name not in set(nullable)]


def ddl(names: Sequence[str], kinds: Sequence[str]) -> str:
    """These columns and CORRUPT as Spark's parsers want them."""
    quoted = (name.replace("`", "``") for name in names)
    return ", ".join([*(f"`{name}` {kind}" for name, kind in zip(quoted, kinds, strict=True)), f"{CORRUPT} string"])


def as_integer(text: Column, kind: str) -> Column:
    """The integer that a text says as `17850`, `17850.0` or `1.785E+04`; null for `17850.5` or beyond `kind`.

    A number with an exponent is computed as a decimal, and only where its 18 places hold all of its digits.
    """
    places = F.length(F.regexp_extract(text, r"\.([0-9]*)", 1))
    exponent = F.regexp_extract(text, r"[eE]([+-]?[0-9]+)$", 1).try_cast("int")
    exact = F.when(places - exponent <= 18, text.try_cast("decimal(38,18)"))
    scientific = F.when(text.rlike(r"^[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]{1,3}$") & (exact % 1 == 0), exact)
    return F.coalesce(F.regexp_replace(text, r"\.0*$", "").try_cast(kind), scientific.try_cast(kind))


def _known(text: Column, nulls: Collection[str]) -> Column:
    return F.when(~text.isin(*nulls), text) if nulls else text


def _value(value: Column, text: Column, kind: str) -> Column:
    """What Spark read in the field, else what its text means, which is there where Spark could not read all fields."""
    kind = kind.strip().lower()
    if kind == "string" or kind.startswith(NESTED):
        return value
    return F.coalesce(value, as_integer(text, kind) if kind in INTEGERS else text.try_cast(kind))


def _mistyped(name: str, kind: str) -> Column:
    text = F.col("_text").getField(name)
    shown = F.concat(F.lit("'"), F.left(text, F.lit(SHOWN_CHARACTERS)), F.lit("'"))
    return F.concat(F.lit(f"{name} must be {kind}, found "), F.coalesce(shown, F.lit("nothing")))
