"""Which split and shard each row goes to, from the hash of its key alone: the same with any number of executors.

Rows of a version lie in the order (split, shard, hash, key). Since the hash knows nothing of the content,
this is a shuffle, and one that needs no random numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from penstock.errors import RecipeError
from penstock.recipe import Split
from penstock.schema import Schema

BUCKETS = 1_000_000  # shares are exact to a millionth
FILE_BYTES = 128 << 20
FEW_FILES = 8  # so many writers at least, where there are row groups for them


@dataclass(frozen=True)
class Layout:
    """How many files each split has, in the order of their numbers, and the rows of a row group."""

    files: Mapping[str, int]
    rows_per_group: int

    @property
    def num_files(self) -> int:
        return sum(self.files.values())


def assign(df: DataFrame, schema: Schema, split: Split) -> DataFrame:
    """Adds `split` and `_hash`, the 64-bit xxHash (seed 42) of the key's text."""
    assert schema.key is not None
    df = df.withColumn("_hash", F.xxhash64(F.col(schema.key).cast("string")))
    bucket = F.pmod("_hash", F.lit(BUCKETS))
    below, by_hash = 0.0, F.lit(None).cast("string")
    names = sorted(split.shares)
    for name in names[:-1]:
        below += split.shares[name]
        by_hash = F.coalesce(by_hash, F.when(bucket < round(below * BUCKETS), F.lit(name)))
    by_hash = F.coalesce(by_hash, F.lit(names[-1]))
    return df.withColumn("split", F.coalesce(F.col(split.source), by_hash) if split.source else by_hash)


def check_keys(assigned: DataFrame, schema: Schema, split: Split) -> None:
    """Raises: RecipeError where the source puts rows of one key into two splits; a hash alone cannot."""
    if split.source is None:
        return
    assert schema.key is not None
    number = F.xxhash64("split")  # Spark sorts where it aggregates text: several times slower
    per_key = assigned.groupBy(schema.key).agg(F.min(number).alias("first"), F.max(number).alias("last"))
    [(key,)] = per_key.where("first <> last").agg(F.min(schema.key)).collect()
    if key is not None:
        rows = assigned.where(F.col(schema.key) == key).select("split").distinct().orderBy("split").collect()
        raise RecipeError(
            f"split: the rows of key {key!r} are in the splits {' and '.join(repr(row['split']) for row in rows)}; "
            f"column {split.source!r} must name one split for all rows of a key"
        )


def count(assigned: DataFrame, schema: Schema, split: Split) -> tuple[dict[str, int], int]:
    """The rows of each split, and the mean bytes of a row.

    The splits are the recipe's in its order, 0 rows included, then those that only the source names.

    Raises: RecipeError for a name that cannot be that of a folder.
    """
    totals = F.count(F.lit(1)).alias("rows"), F.sum(row_bytes(schema)).alias("bytes")
    counted = assigned.groupBy("split").agg(*totals).collect()
    found = {row["split"]: row["rows"] for row in counted}
    if wrong := [name for name in found if not re.fullmatch(r"[A-Za-z0-9_-]+", name)]:
        raise RecipeError(f"split: {wrong[0]!r} cannot name a split; use letters, digits, '_' and '-'")
    names = [*split.shares, *sorted(set(found) - set(split.shares))]
    mean = sum(row["bytes"] for row in counted) / max(1, sum(found.values()))
    return {name: found.get(name, 0) for name in names}, max(1, round(mean))


def row_bytes(schema: Schema) -> Column:
    """The bytes of a row's values: what has no fixed width is measured, each value as it is."""
    fixed = sum(field.num_bytes for field in schema.fields if not field.is_varying)
    total = F.lit(fixed).cast("long")
    for field in schema.fields:
        if field.is_list:
            total += F.coalesce(F.size(field.name), F.lit(0)) * field.numpy_dtype.itemsize
        elif field.is_varying:
            total += F.coalesce(F.octet_length(field.name), F.lit(0))
    return total


def plan(num_rows: Mapping[str, int], row_bytes: int, row_group_bytes: int) -> Layout:
    """Even row groups of about `row_group_bytes`, in as many files as let several executors write."""
    target = max(1, row_group_bytes // row_bytes)
    files = {
        name: max(math.ceil(rows * row_bytes / FILE_BYTES), min(FEW_FILES, math.ceil(rows / target)), 1)
        for name, rows in sorted(num_rows.items())
    }
    largest = max(num_rows, key=lambda name: num_rows[name] / files[name])
    rows_per_file = num_rows[largest] / files[largest]
    # A hash fills files almost evenly: with three deviations to spare no file has a last row group of a few rows.
    rows_per_file += 3 * math.sqrt(rows_per_file) if files[largest] > 1 else 0
    groups = max(1, round(rows_per_file / target))
    return Layout(files, max(1, math.ceil(rows_per_file / groups)))


def place(df: DataFrame, layout: Layout) -> DataFrame:
    """Moves every row to its file, once, and sorts it there: one partition per file."""
    first, shard = 0, F.lit(None).cast("int")
    for name, files in layout.files.items():
        number = F.lit(first) + F.pmod(F.shiftrightunsigned("_hash", 32), F.lit(files))
        shard = F.coalesce(shard, F.when(F.col("split") == name, number.cast("int")))
        first += files
    return df.withColumn("_shard", shard).repartitionById(layout.num_files, "_shard")


def number_duplicates(df: DataFrame, schema: Schema) -> DataFrame:
    """Adds `_copy`: 1 for the row to keep of those with one key, the smallest by all other fields.

    The window's sort is also the order in which rows are written.
    """
    assert schema.key is not None
    rest = [name for name in schema.names if name != schema.key]
    same_key = Window.partitionBy("split", "_shard", "_hash", schema.key).orderBy(*(rest or [schema.key]))
    return df.withColumn("_copy", F.row_number().over(same_key))
