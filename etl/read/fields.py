"""Text records as typed columns, and of those that cannot be read what is wrong: shared by csv and JSON lines.

Spark's parsers read a record in its types at once. Only where that fails the record is read again as text, field by
field: to take an integer that is written as a decimal, or to say what is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
    broken: Mapping[str, str] | None = None,
    nullable: Collection[str] = (),
    nulls: Collection[str] = (),
) -> DataFrame:
    """The columns of records as `lines` gives them, and whether and why a record is malformed.

    `row` is the record as a struct of the columns in their types, with CORRUPT, which is not null where a field could
    not be read; `text` the same of strings. Only where `row` lacks something, `doubt` is true, or one of `nulls` is
    somewhere in the record, `text` is asked, and `problem`, which says in terms of `_text` what is wrong with the
    record as a whole, or is null. `broken`, in SQL, is true where a nested value, of which `row` may hold a part, is
    not of its type.
    """
    records = records.withColumns({"_row": row, "_is_text": F.is_valid_utf8("value")})
    required = must_be_there(columns, nullable)
    doubts = [
        F.col("_problem").isNotNull(),
        ~F.col("_is_text"),
        F.expr(_any([f"_row.{CORRUPT} IS NOT NULL", *(f"{_field('_row', name)} IS NULL" for name in required)])),
        *([] if doubt is None else [doubt]),
        *(F.contains("value", F.lit(text)) for text in nulls if text),  # Spark may have read it as a value
    ]
    records = records.withColumn("_is_doubtful", reduce(Column.__or__, doubts))
    records = records.withColumn("_text", F.when(F.col("_is_doubtful"), text))
    texts = {name: _known(_field("_text", name), nulls) for name in columns}
    values = {name: _value(name, texts[name], kind, nulls) for name, kind in columns.items()}
    wrong = {
        name: f"{values[name]} IS NULL" if name in required else f"{values[name]} IS NULL AND {texts[name]} IS NOT NULL"
        for name in columns
    }
    wrong |= {name: f"{wrong[name]} OR {is_broken}" for name, is_broken in (broken or {}).items()}
    problem = F.coalesce(F.col("_problem"), F.when(~F.col("_is_text"), NO_TEXT), problem)
    malformed = F.col("_is_doubtful") & (problem.isNotNull() | F.expr(_any(wrong.values())))
    each = (f"CASE WHEN {wrong[name]} THEN {_mistyped(name, kind)} END" for name, kind in columns.items())
    mistyped = F.expr(f"concat_ws('; ', {', '.join(each)})")
    return records.select(
        *(F.expr(value).alias(name) for name, value in values.items()),
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


# Parts of SQL. What is asked of each of many columns is written so: a text is parsed in a call of the JVM, where an
# expression of PySpark's functions takes many calls for each function.


def literal(text: str) -> str:
    """Of any text: Spark would put in what `${env:HOME}` stands for."""
    return "'" + text.replace("\\", r"\\").replace("'", r"\'").replace("$", r"\u0024") + "'"


def as_integer(text: str, kind: str) -> str:
    """The integer that a text says as `17850`, `17850.0` or `1.785E+04`; null for `17850.5` or beyond `kind`.

    A number with an exponent is computed as a decimal, and only where its 18 places hold all of its digits.
    """
    places = rf"length(regexp_extract({text}, '\\.([0-9]*)', 1))"
    exponent = f"try_cast(regexp_extract({text}, '[eE]([+-]?[0-9]+)$', 1) AS int)"
    exact = f"CASE WHEN {places} - {exponent} <= 18 THEN try_cast({text} AS decimal(38,18)) END"
    is_scientific = rf"{text} RLIKE '^[+-]?[0-9]+(\\.[0-9]*)?[eE][+-]?[0-9]{{1,3}}$'"
    scientific = f"CASE WHEN {is_scientific} AND ({exact}) % 1 = 0 THEN {exact} END"
    plain = rf"regexp_replace({text}, '\\.0*$', '')"
    return f"coalesce(try_cast({plain} AS {kind}), try_cast({scientific} AS {kind}))"


def _any(conditions: Iterable[str]) -> str:
    return " OR ".join(f"({condition})" for condition in conditions)


def _field(struct: str, name: str) -> str:
    return f"{struct}[{literal(name)}]"


def _is_one_of(text: str, nulls: Collection[str]) -> str:
    return f"{text} IN ({', '.join(map(literal, nulls))})"


def _known(text: str, nulls: Collection[str]) -> str:
    return f"CASE WHEN NOT {_is_one_of(text, nulls)} THEN {text} END" if nulls else text


def _value(name: str, text: str, kind: str, nulls: Collection[str]) -> str:
    """What Spark read in the field, else what its text means, which is there where Spark could not read all fields."""
    kind, value = kind.strip().lower(), _field("_row", name)
    if not (kind == "string" or kind.startswith(NESTED)):
        value = f"coalesce({value}, {as_integer(text, kind) if kind in INTEGERS else f'try_cast({text} AS {kind})'})"
    if nulls:
        is_null = _is_one_of(_field("_text", name), nulls)
        value = f"CASE WHEN NOT coalesce({is_null}, false) THEN {value} END"
    return f"({value})"


def _mistyped(name: str, kind: str) -> str:
    quote, text = literal("'"), _field("_text", name)
    shown = f"concat({quote}, left({text}, {SHOWN_CHARACTERS}), {quote})"
    return f"concat({literal(f'{name} must be {kind}, found ')}, coalesce({shown}, 'nothing'))"
