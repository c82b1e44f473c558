"""Splits and places: a key's split is for ever, shares are kept, files and row groups are even."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl import split
from penstock.errors import RecipeError
from penstock.recipe import Split
from penstock.schema import Field, Schema

SCHEMA = Schema((Field("id", "int64"), Field("x", "int32"), Field("y", "string")), key="id")
SHARES = Split({"train": 0.7, "val": 0.1, "test": 0.2})
KEYS = 20_000

P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: bytes, seed: int) -> int:
    """The 64-bit xxHash of up to 31 bytes, signed. Source: Collet, "XXH64 algorithm description", steps 4 to 7."""

    def turn(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) % 2**64

    assert len(data) < 32
    h = (seed + P5 + len(data)) % 2**64
    while len(data) >= 8:
        word = turn(int.from_bytes(data[:8], "little") * P2 % 2**64, 31) * P1 % 2**64
        h, data = (turn(h ^ word, 27) * P1 + P4) % 2**64, data[8:]
    if len(data) >= 4:
        h, data = (turn(h ^ int.from_bytes(data[:4], "little") * P1 % 2**64, 23) * P2 + P3) % 2**64, data[4:]
    for byte in data:
        h = turn(h ^ byte * P5 % 2**64, 11) * P1 % 2**64
    h = (h ^ h >> 33) * P2 % 2**64
    h = (h ^ h >> 29) * P3 % 2**64
    h ^= h >> 32
    return h - 2**64 if h >= 2**63 else h


def expected_split(key: object, shares: Split = SHARES) -> str:
    """What the docstrings say: the key's text, its hash, a bucket of a million, the shares in order of their names."""
    bucket, below = xxh64(str(key).encode(), 42) % 1_000_000, 0.0
    for name in sorted(shares.shares):
        below += shares.shares[name]
        if bucket < round(below * 1_000_000):
            return name
    raise AssertionError


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    return spark.range(KEYS).selectExpr("id", "cast(id % 5 as int) x", "cast(id as string) y")


def test_a_key_goes_where_its_hash_says_and_nowhere_else(rows: DataFrame) -> None:
    found = split.assign(rows, SCHEMA, SHARES).select("id", "split", "_hash").collect()
    assert {row["id"]: row["split"] for row in found} == {key: expected_split(key) for key in range(KEYS)}
    assert {row["_hash"] for row in found[:9]} == {xxh64(str(row["id"]).encode(), 42) for row in found[:9]}
    for name, share in SHARES.shares.items():
        deviation = math.sqrt(KEYS * share * (1 - share))
        assert abs(sum(row["split"] == name for row in found) - KEYS * share) < 4 * deviation


def test_the_source_decides_where_it_says_something(rows: DataFrame) -> None:
    sourced = Split(SHARES.shares, source="said")
    assigned = split.assign(rows.withColumn("said", F.expr("if(id < 100, 'held_out', null)")), SCHEMA, sourced)
    found = {row["id"]: row["split"] for row in assigned.where("id < 200").collect()}
    assert found == {key: "held_out" if key < 100 else expected_split(key) for key in range(200)}


def test_splits_are_counted_in_the_order_of_the_recipe(rows: DataFrame) -> None:
    with_empty = Split({"train": 0.7, "never": 0.0000001, "a_test": 0.2999999}, source="said")
    assigned = split.assign(rows.withColumn("said", F.expr("if(id = 5, 'b-1', null)")), SCHEMA, with_empty)
    found, _ = split.count(assigned, SCHEMA, with_empty)
    assert list(found) == ["train", "never", "a_test", "b-1"]
    assert (found["never"], found["b-1"], sum(found.values())) == (0, 1, KEYS)


def test_the_width_of_a_row_is_measured(spark: SparkSession) -> None:
    fields = (
        Field("id", "string"),
        Field("x", "int16", (4,)),
        Field("tokens", "int32", (None,)),
        Field("photo", "uint8", (None, None, 3), "png"),
        Field("payload", "bytes"),
        Field("n", "float64"),
    )
    values = [("a", b"8 bytes.", [1, 2, 3], b"12345", b"", 0.5), ("größe", b"8 bytes.", [], b"1", b"1234567", 0.5)]
    ddl = "id string, x binary, tokens array<int>, photo binary, payload binary, n double"
    df = spark.createDataFrame(values, ddl).withColumn("split", F.lit("train"))
    widths = [1 + 8 + 12 + 5 + 0 + 8, 7 + 8 + 0 + 1 + 7 + 8]  # UTF-8
    schema = Schema(fields, key="id")
    assert [row[0] for row in df.select(split.row_bytes(schema)).collect()] == widths
    assert split.count(df, schema, Split({"train": 1.0})) == ({"train": 2}, round(sum(widths) / 2))
    assert split.count(df.limit(0), schema, Split({"train": 1.0})) == ({"train": 0}, 1)


@pytest.mark.parametrize("name", ["a/b", "", "..", "a b"])
def test_a_split_that_cannot_be_a_folder_is_refused(rows: DataFrame, name: str) -> None:
    sourced = Split({"train": 1.0}, source="said")
    assigned = split.assign(rows.limit(3).withColumn("said", F.lit(name)), SCHEMA, sourced)
    with pytest.raises(RecipeError, match=f"split: '{name}' cannot name a split; use letters, digits, '_' and '-'"):
        split.count(assigned, SCHEMA, sourced)


@pytest.mark.parametrize(
    ("said", "pair"),
    [
        ("case when id < 9 and x = 0 then 'a' when id < 9 then 'b' end", "'a' and 'b'"),
        ("if(id = 7 and x = 0, 'z', null)", f"'{expected_split(7)}' and 'z'"),
    ],
    ids=["two are said", "one is said"],
)
def test_a_key_in_two_splits_is_refused(rows: DataFrame, said: str, pair: str) -> None:
    sourced = Split(SHARES.shares, source="said")
    twice = rows.drop("x").crossJoin(rows.sparkSession.range(2).selectExpr("cast(id as int) x"))
    equal = split.assign(twice.withColumn("said", F.expr("if(id < 9, 'a', null)")), SCHEMA, sourced)
    split.check_keys(equal, SCHEMA, sourced)  # equal keys in one split are duplicates
    assigned = split.assign(twice.withColumn("said", F.expr(said)), SCHEMA, sourced)
    with pytest.raises(
        RecipeError, match=rf"split: the rows of key \d are in the splits {pair}; column 'said' must na"
    ):
        split.check_keys(assigned, SCHEMA, sourced)


def test_every_row_is_placed_in_the_order_that_its_hash_gives(rows: DataFrame) -> None:
    layout = split.Layout({"test": 2, "train": 3, "val": 1}, 1_000)
    placed = split.place(split.assign(rows, SCHEMA, SHARES), layout)
    numbered = split.number_duplicates(placed, SCHEMA).withColumn("_partition", F.spark_partition_id())
    found = numbered.select("id", "split", "_shard", "_hash", "_partition", "_copy").collect()
    assert Counter(row["id"] for row in found) == Counter(range(KEYS))
    assert all(row["_copy"] == 1 for row in found)
    for row in found:
        first = {"test": 0, "train": 2, "val": 5}[row["split"]]
        assert row["_shard"] == first + ((row["_hash"] % 2**64) >> 32) % layout.files[row["split"]]
    in_files = {(row["split"], row["_shard"], row["_partition"]) for row in found}
    assert len(in_files) == layout.num_files  # a file is one partition
    for partition in {row["_partition"] for row in found}:
        hashes = [(row["_hash"], row["id"]) for row in found if row["_partition"] == partition]
        assert hashes == sorted(hashes)


@pytest.mark.parametrize("partitions", [1, 7])
def test_of_equal_keys_the_smallest_row_is_kept_from_any_partition(spark: SparkSession, partitions: int) -> None:
    values = [(key, copy * 7 % 5, f"{copy}") for key in range(50) for copy in range(key % 4 + 1)]
    df = spark.createDataFrame(values, "id long, x int, y string").repartition(partitions)
    placed = split.place(split.assign(df, SCHEMA, SHARES), split.Layout({"test": 1, "train": 2, "val": 1}, 9))
    found = split.number_duplicates(placed, SCHEMA).where("_copy = 1").select("id", "x", "y").collect()
    assert sorted(tuple(row) for row in found) == [min(v for v in values if v[0] == key) for key in range(50)]


NUM_ROWS = st.dictionaries(st.sampled_from(["train", "val", "test", "x"]), st.integers(0, 10**9), min_size=1)


@given(NUM_ROWS, st.integers(1, 10**6), st.sampled_from([1, 1 << 10, 4 << 20]))
def test_a_plan_is_even_and_keeps_to_its_sizes(num_rows: dict[str, int], row_bytes: int, group_bytes: int) -> None:
    layout = split.plan(num_rows, row_bytes, group_bytes)
    target = max(1, group_bytes // row_bytes)
    assert list(layout.files) == sorted(num_rows)
    assert layout == split.plan(dict(reversed(num_rows.items())), row_bytes, group_bytes)
    assert 1 <= layout.rows_per_group <= 2 * target + 1
    for name, files in layout.files.items():
        assert files >= 1
        assert num_rows[name] / files * row_bytes <= split.FILE_BYTES + row_bytes
        assert files <= max(1, math.ceil(num_rows[name] / target), math.ceil(num_rows[name] * row_bytes / (128 << 20)))
    largest = max(num_rows, key=lambda name: num_rows[name] / layout.files[name])
    rows_per_file = num_rows[largest] / layout.files[largest]
    if rows_per_file > 100 * target > 1_000:  # then no row group is far from what was asked for
        assert abs(layout.rows_per_group / target - 1) < 0.1
