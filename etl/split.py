"""Which split and shard each row goes to, from the hash of its key alone: the same with any number of executors.

A shard is one task's share of the rows; each split has one file in it, seldom more. Rows lie in the order (shard, hash,
key). Since the hash knows nothing of the content, this is a shuffle, and one that needs no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from etl.clean import PLACE
from penstock.errors import RecipeError
from penstock.recipe import HASHES, First, Greatest, Keep, Last, Smallest, Split
from penstock.schema import Schema

SMALLEST = Smallest()


def assign(df: DataFrame, schema: Schema, split: Split) -> DataFrame:
    """Adds `split`, `_hash`, the 64-bit xxHash (seed 42) of the key's text, and `_group`, that of the group's.

    `_group` is there for splits by group, null where the row's group is.
    """
    assert schema.key is not None
    df = df.withColumn("_hash", F.xxhash64(F.col(schema.key).cast("string")))
    if split.before:
        chosen = _by_time(df, split)
    elif split.is_by_group:
        assert split.by is not None
        group = F.xxhash64(F.col(split.by).cast("string"))
        df = df.withColumn("_group", F.when(F.col(split.by).isNotNull(), group))
        chosen = _by_hash(F.coalesce("_group", "_hash"), split)
    else:
        chosen = _by_hash(F.col("_hash"), split)
    return df.withColumn("split", F.coalesce(F.col(split.source), chosen) if split.source else chosen)


def _by_hash(hashed: Column, split: Split) -> Column:
    bucket = F.pmod(F.pmod(hashed, F.lit(HASHES)) + F.lit(round(split.rotate * HASHES)), F.lit(HASHES))
    *others, (last, _) = split.limits.items()
    return F.coalesce(*(F.when(bucket < limit, F.lit(name)) for name, limit in others), F.lit(last))


def _by_time(df: DataFrame, split: Split) -> Column:
    """The first split whose border the row is before; null where its time is."""
    assert split.by is not None
    time, kind = F.col(split.by), df.schema[split.by].dataType
    before = [
        F.when(time < F.lit(border).cast(kind), F.lit(name))
        for name, border in split.before.items()
        if border is not None
    ]
    return F.when(time.isNotNull(), F.coalesce(*before, F.lit(split.names[-1])))


def place(df: DataFrame, schema: Schema, shards: int, keep: Keep = SMALLEST) -> DataFrame:
    """The schema's columns, `split`, and `_group` where there is one: every row moved to its shard, once, and sorted.

    One partition per shard. Of rows with one key the first is the one to keep.

    Raises: RecipeError where clean() has dropped a column that `keep` needs.
    """
    assert schema.key is not None
    shard = F.pmod(F.shiftrightunsigned("_hash", 32), F.lit(shards)).cast("int")
    kept = [*schema.names, "split", *(name for name in df.columns if name == "_group")]
    asked = [name for name in _asked(keep) if name not in kept]
    if missing := [name for name in _asked(keep) if name not in df.columns]:
        raise RecipeError(f"keep = {keep}: clean() gives no column {missing[0]!r}; it must hand it on")
    placed = df.select(*kept, *asked, "_hash", shard.alias("_shard")).repartitionById(shards, "_shard")
    rest = [name for name in schema.names if name != schema.key]
    return placed.sortWithinPartitions("_hash", schema.key, *preference(keep, rest)).select(*kept)


def preference(keep: Keep, rest: Sequence[str]) -> list[Column]:
    """What rows of one key are sorted by, so that the one to keep is the first; `rest` are their other columns."""
    by_rest = [F.col(name) for name in rest]
    match keep:
        case First():
            return [F.col(PLACE)]
        case Last():
            return [F.col(PLACE).desc()]
        case Greatest(column):
            return [F.col(column).desc_nulls_last(), *by_rest]
    return by_rest


def _asked(keep: Keep) -> list[str]:
    return [keep.column] if isinstance(keep, Greatest) else [] if isinstance(keep, Smallest) else [PLACE]
