"""JSON lines: an object a line."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read.fields import CORRUPT, NESTED, ddl, literal, typed
from etl.read.files import damaged, listed, names_all, with_damaged
from etl.read.records import Format, lines

OPTIONS = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT}


def json_lines(
    spark: SparkSession,
    raw_url: str,
    columns: Mapping[str, str],
    *,
    nullable: Collection[str] = (),
    extra_columns: bool = False,
    encoding: str = "utf-8",
    only: str = "*",
    unreadable: str = "fail",
) -> DataFrame:
    """One object a line; blank lines are no records. `columns` maps names to Spark SQL types, nested ones too.

    A record is malformed if it is not one object, lacks a column that is not `nullable`, has a value that is not of its
    type, or, without `extra_columns`, has other names too. Integers may be written as for `csv`, and in quotes.
    """
    urls = listed(raw_url, only)
    damage = damaged(spark, urls, unreadable, only)
    whole = [url for url in urls if url not in damage]
    folder = raw_url if names_all(raw_url, only) and not damage else None
    records = lines(spark, whole, Format(encoding), only, folder=folder).where("trim(value) <> ''")
    row = F.from_json("value", ddl(list(columns), list(columns.values())), OPTIONS)
    text = F.from_json("value", ddl(list(columns), ["string"] * len(columns)), OPTIONS)
    # from_json takes the first of several objects and leaves out the rest.
    is_object = F.startswith(F.ltrim("value"), F.lit("{")) & (
        F.json_array_length(F.concat(F.lit("["), "value", F.lit("]"))).eqNullSafe(1)
    )
    names = F.array(*map(F.lit, columns))
    others = F.array_except(F.json_object_keys("value"), names)
    doubt, problem = ~is_object, F.when(~is_object, "expected one JSON object, found something else")
    if not extra_columns:
        doubt = doubt | (F.size(others) > 0)
        problem = problem.when(F.size(others) > 0, F.concat(F.lit("not expected: "), F.array_join(others, ", ")))
    options = ", ".join(map(literal, (word for pair in OPTIONS.items() for word in pair)))
    broken = {
        name: f"from_json(value, {literal(ddl([name], [kind]))}, map({options})).{CORRUPT} IS NOT NULL"
        for name, kind in columns.items()
        if kind.strip().lower().startswith(NESTED)
    }
    df = typed(records, columns, row, text, problem, doubt=doubt, broken=broken, nullable=nullable)
    return with_damaged(df, spark, damage)
