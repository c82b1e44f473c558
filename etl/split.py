"""Which split and shard each row goes to, from the hash of its key alone: the same with any number of executors.

A shard is one task's share of the rows; each split has one file in it, seldom more. Rows lie in the order (shard, hash,
key). Since the hash knows nothing of the content, this is a shuffle, and one that needs no random numbers.
"""

from __future__ import annotations

import math

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from penstock.recipe import Split
from penstock.schema import Schema

BUCKETS = 1_000_000  # shares are exact to a millionth
FEW_SHARDS, FEW_BYTES = 8, 3 << 20  # so many at least, where there are so many raw bytes for each
SHARD_BYTES = 32 << 20  # raw bytes, which may be compressed: the rows of a shard can be several times larger


def num_shards(raw_bytes: int) -> int:
    """From the size of the raw files, which is known before any row is read: no pass counts rows first."""
    return max(1, min(FEW_SHARDS, math.ceil(raw_bytes / FEW_BYTES)), math.ceil(raw_bytes / SHARD_BYTES))


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


def place(df: DataFrame, schema: Schema, shards: int) -> DataFrame:
    """The schema's columns and `split`: every row moved to its shard, once, and sorted there. One partition per shard.

    Of rows with one key the first is the one to keep, the smallest by all other fields.
    """
    assert schema.key is not None
    shard = F.pmod(F.shiftrightunsigned("_hash", 32), F.lit(shards)).cast("int")
    placed = df.select(*schema.names, "split", "_hash", shard.alias("_shard")).repartitionById(shards, "_shard")
    rest = [name for name in schema.names if name != schema.key]
    return placed.sortWithinPartitions("_hash", schema.key, *rest).select(*schema.names, "split")
