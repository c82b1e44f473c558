"""Splits and places: a key's split is for ever, shares are kept, equal keys lie side by side."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl import split
from penstock.errors import RecipeError
from penstock.recipe import First, Greatest, Keep, Last, Split
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


def test_rotated_splits_have_every_row_in_test_once(rows: DataFrame) -> None:
    shares = {"test": 0.2, "train": 0.7, "val": 0.1}
    tested: Counter[int] = Counter()
    for fold in range(5):
        found = split.assign(rows, SCHEMA, Split(shares, rotate=fold / 5)).select("id", "split").collect()
        of = Counter(row["split"] for row in found)
        assert all(abs(of[name] / KEYS - share) < 0.02 for name, share in shares.items())
        tested.update(row["id"] for row in found if row["split"] == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == KEYS
    with pytest.raises(RecipeError, match="rotate is a share of the hashes"):
        Split(shares, rotate=1.0)


def test_the_source_decides_where_it_says_something(rows: DataFrame) -> None:
    sourced = Split(SHARES.shares, source="said")
    assigned = split.assign(rows.withColumn("said", F.expr("if(id < 100, 'held_out', null)")), SCHEMA, sourced)
    found = {row["id"]: row["split"] for row in assigned.where("id < 200").collect()}
    assert found == {key: "held_out" if key < 100 else expected_split(key) for key in range(200)}


def test_every_row_is_in_the_shard_and_the_order_that_its_hash_gives(rows: DataFrame) -> None:
    placed = split.place(split.assign(rows, SCHEMA, SHARES), SCHEMA, 6).withColumn("_shard", F.spark_partition_id())
    found = placed.collect()
    assert placed.columns == ["id", "x", "y", "split", "_shard"]
    assert Counter(row["id"] for row in found) == Counter(range(KEYS))
    hashes = [(row["_shard"], xxh64(str(row["id"]).encode(), 42), row["id"]) for row in found]
    assert all(shard == ((hashed % 2**64) >> 32) % 6 for shard, hashed, _ in hashes)
    assert hashes == sorted(hashes)


def test_a_group_goes_where_its_hash_says_and_a_row_without_one_where_its_key_does(rows: DataFrame) -> None:
    by = Split(SHARES.shares, by="group")
    df = rows.where("id < 500").withColumn("group", F.expr("if(id % 10 = 0, null, id % 100)"))
    found = {row["id"]: row["split"] for row in split.assign(df, SCHEMA, by).collect()}
    assert found == {key: expected_split(key % 100 if key % 10 else key) for key in range(500)}


@pytest.mark.parametrize(
    ("kind", "borders"),
    [("int", (100, 300)), ("timestamp", ("1970-01-01 00:01:40", "1970-01-01 00:05:00"))],
)
def test_a_row_is_in_the_first_split_whose_border_it_is_before(
    rows: DataFrame, kind: str, borders: tuple[int | str, int | str]
) -> None:
    by = Split(by="time", before={"train": borders[0], "val": borders[1], "test": None})
    df = rows.where("id < 500").withColumn("time", F.expr(f"cast(nullif(id, 7) as {kind})"))
    found = {row["id"]: row["split"] for row in split.assign(df, SCHEMA, by).collect()}
    assert found == {i: "train" if i < 100 else "val" if i < 300 else "test" for i in range(500)} | {7: None}


@pytest.mark.parametrize("partitions", [1, 7])
@pytest.mark.parametrize("keep", [First(), Last(), Greatest("score"), Greatest("x")])
def test_the_row_to_keep_comes_first_from_any_partition(spark: SparkSession, keep: Keep, partitions: int) -> None:
    values = [
        (key, copy * 7 % 5, f"{copy}", key % 3 and copy % 2, ("f", 0, copy)) for key in range(30) for copy in range(4)
    ]
    columns = "id long, x int, y string, score int, _place struct<file: string, block: long, number: long>"
    df = spark.createDataFrame(values, columns).repartition(partitions)
    placed = split.place(split.assign(df, SCHEMA, SHARES), SCHEMA, 4, keep)
    assert placed.columns == ["id", "x", "y", "split"]
    found = [tuple(row)[:3] for row in placed.collect()]
    firsts = {key: next(run) for key, run in itertools.groupby(found, key=lambda row: row[0])}

    def best(rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
        match keep:
            case First():
                return rows[0]
            case Last():
                return rows[-1]
            case Greatest(column):
                return min(rows, key=lambda row: (-row[3 if column == "score" else 1], *row[1:3]))
        raise AssertionError

    of_key = {key: [row for row in values if row[0] == key] for key in range(30)}
    assert firsts == {key: best(rows)[:3] for key, rows in of_key.items()}


def test_a_column_that_decides_and_is_not_there_is_said(rows: DataFrame) -> None:
    for keep, missing in ((First(), "_place"), (Greatest("when"), "when")):
        with pytest.raises(RecipeError, match=rf"keep = .*: clean\(\) gives no column '{missing}'; it must hand it on"):
            split.place(split.assign(rows, SCHEMA, SHARES), SCHEMA, 4, keep)


@pytest.mark.parametrize("partitions", [1, 7])
def test_of_equal_keys_the_smallest_row_comes_first_from_any_partition(spark: SparkSession, partitions: int) -> None:
    values = [(key, copy * 7 % 5, f"{copy}") for key in range(50) for copy in range(key % 4 + 1)]
    df = spark.createDataFrame(values, "id long, x int, y string").repartition(partitions)
    placed = split.place(split.assign(df, SCHEMA, SHARES), SCHEMA, 4).collect()
    found = [tuple(row)[:3] for row in placed]
    assert sorted(found) == sorted(values)
    runs = [list(run) for _, run in itertools.groupby(found, key=lambda row: row[0])]
    assert len(runs) == 50  # equal keys lie side by side
    assert all(run == sorted(run) for run in runs)
