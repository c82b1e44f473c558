"""Plain text: a line a record, or a whole file."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read.files import damaged, listed, with_damaged
from etl.read.records import Format, lines
from etl.read.whole import contents


def text(
    spark: SparkSession,
    raw_url: str,
    *,
    whole: bool = False,
    encoding: str = "utf-8",
    only: str = "*",
    unreadable: str = "fail",
) -> DataFrame:
    """One column, `text`: a line without its end, blank ones too, with its number in `_position`; or a `whole` file.

    A whole file has its `path` too, relative to the raw URL, and is to fit in memory. Text that is not of the encoding
    is malformed.
    """
    urls = listed(raw_url, only)
    damage = damaged(spark, urls, unreadable, only)
    urls = [url for url in urls if url not in damage]
    form = Format(encoding)
    if whole:
        records, columns = contents(spark, raw_url, urls, only, form), ["path"]
    else:
        records, columns = lines(spark, urls, form, only, numbered=True), []
    is_text = F.is_valid_utf8("value")
    value = F.make_valid_utf8("value")
    why = F.coalesce("_problem", F.when(~is_text, f"expected {encoding} text, found other bytes"))
    df = records.select(
        *columns,
        value.alias("text"),
        "_file",
        "_position",
        (F.lit(None).cast("string") if whole else value).alias("_record"),
        why.isNotNull().alias("_malformed"),
        why.alias("_why"),
    )
    return with_damaged(df, spark, damage)
