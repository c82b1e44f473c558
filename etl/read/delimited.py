"""Delimited text, csv above all, whose fields are found by their names in a header or by their place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read import drift
from etl.read.fields import CORRUPT, ddl, typed
from etl.read.files import damaged, listed, names_all, with_damaged
from etl.read.records import Format, first_records, lines
from penstock.errors import RecipeError

NO_QUOTE = "\ufdd0"  # Spark always has a quote: without one it is a character that Unicode keeps out of texts
MOST_FIELDS = 1_000_000  # beyond, Spark's parser fails
FILES_AT_ONCE = 16


def csv(
    spark: SparkSession,
    raw_url: str,
    columns: Mapping[str, str],
    *,
    header: bool = False,
    nullable: Collection[str] = (),
    nulls: Collection[str] = (),
    delimiter: str = ",",
    quote: str | None = '"',
    trim: bool = True,
    quoted_newlines: bool = False,
    encoding: str = "utf-8",
    aliases: Mapping[str, str] | None = None,
    extra_columns: bool = False,
    only: str = "*",
    unreadable: str = "fail",
) -> DataFrame:
    """Delimited text, plain, compressed or in archives, one record a line; blank lines are no records.

    All files of the folder and of those in it are read, as the inventory counts them, if their names are like `only`.
    `columns` maps every column, in the file's order, to its Spark SQL type. A record is malformed if it has bytes that
    are not of the `encoding`, another number of fields, a value that is not of its type, or nothing, or one of
    `nulls`, in a column that is not `nullable`. Integer columns take integral decimals: 17850.0, 5.00E+05.

    With a `header` the columns are found by its names, or by `aliases` of theirs: name in a header -> column. Other
    columns than these are left out with `extra_columns`. Lines that equal their file's header are no records.
    A `quote` of None: quotes mean nothing. `trim`: white space around an unquoted value is none of it.
    `quoted_newlines`: a quoted value may hold line ends; then one task reads a file.

    Raises: RawDataError where a file's header has not the columns (schema drift).
    """
    if not delimiter or (quote is not None and (len(quote) != 1 or not quote.isascii())):
        raise RecipeError(f"csv: expected a delimiter and one ASCII character as quote, found {delimiter!r}, {quote!r}")
    form = Format(encoding, quote.encode() if quote and quoted_newlines else None, delimiter.encode(), trim)
    options = {
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": CORRUPT,
        "sep": delimiter,
        "quote": quote or NO_QUOTE,
        "escape": quote or NO_QUOTE,  # RFC 4180: a quote inside quotes is written twice
        "ignoreLeadingWhiteSpace": str(trim).lower(),
        "ignoreTrailingWhiteSpace": str(trim).lower(),
        "maxColumns": str(MOST_FIELDS),
        "multiLine": str(quoted_newlines).lower(),  # else line ends in quotes would all become LF
    }
    urls = listed(raw_url, only)
    damage = damaged(spark, urls, unreadable, only)
    whole = [url for url in urls if url not in damage]
    layouts: dict[str, tuple[list[str | None], list[str]]] = {"": ([*columns], whole)}
    if header:
        headers = _headers(whole, form, only)
        layouts = drift.layouts(headers, options, columns, aliases or {}, extra_columns) or layouts
    folder = raw_url if len(layouts) == 1 and names_all(raw_url, only) and not damage else None
    parts = []
    for line, (order, files) in layouts.items():
        records = lines(spark, files, form, only, folder=folder).where("trim(value) <> ''")
        records = records.where(F.trim("value") != line.strip(" ")) if line else records
        parts.append(_parsed(records, columns, order, options, nullable, nulls))
    return with_damaged(reduce(DataFrame.unionByName, parts), spark, damage)


def _headers(urls: Collection[str], form: Format, only: str) -> dict[str, str]:
    """The first record of each file, and of each member of the archives; an empty file has none."""
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        found = pool.map(lambda url: first_records(url, form, only), urls)
        return {url: line for file in found for url, line in file.items()}


def _parsed(
    records: DataFrame,
    columns: Mapping[str, str],
    order: Sequence[str | None],  # of the fields in the file; None: one that is left out
    options: Mapping[str, str],
    nullable: Collection[str],
    nulls: Collection[str],
) -> DataFrame:
    names = [name or f"_{i}" for i, name in enumerate(order)]
    without = F.replace("value", F.lit(options["sep"]))
    num_bytes = F.octet_length("value")
    too_many = (num_bytes > MOST_FIELDS) & (num_bytes - F.octet_length(without) >= MOST_FIELDS)
    value, end = F.col("value"), []
    if options["quote"] != NO_QUOTE and len(options["sep"]) == 1:
        # A quote that nothing closes takes in the delimiter at the end, so that a field is missing.
        value, end = F.concat(value, F.lit(options["sep"])), ["_end"]
    value = F.when(~too_many, value)
    kinds = [columns.get(name, "string") for name in names]
    row = F.from_csv(value, ddl([*names, *end], [*kinds, *["string"] * len(end)]), options)
    text = F.from_csv(value, ddl([*names, *end], ["string"] * (len(names) + len(end))), options)
    quote = re.escape(options["quote"])
    unquoted = F.regexp_replace("value", f"{quote}[^{quote}]*{quote}", "")  # a delimiter in quotes parts nothing
    found = F.size(F.split(unquoted, re.escape(options["sep"])))
    several = "" if options["multiLine"] == "true" else "; has it a value of several lines (`quoted_newlines`)?"
    is_open = F.length(F.regexp_replace("value", f"[^{quote}]", "")) % 2 == 1
    miscounted = F.concat(
        F.lit(f"expected {len(names)} fields, found "),
        found.cast("string"),
        F.when(is_open, f", and a quote that nothing closes{several}").otherwise(""),
    )
    problem = F.when(too_many, f"expected {len(names)} fields, found {MOST_FIELDS:,} bytes of delimiters").when(
        F.col("_text").getField(CORRUPT).isNotNull(),
        F.when(found == len(names), f"expected quotes in pairs, found one that nothing closes{several}").otherwise(
            miscounted
        ),
    )
    return typed(records, columns, row, text, problem, doubt=too_many, nullable=nullable, nulls=nulls)
