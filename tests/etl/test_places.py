"""What penstock.write does without Spark is what ETL does with it: hashes, splits, order, bytes."""

from __future__ import annotations

import datetime
import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import penstock
from etl import split
from penstock import card as cards
from penstock import places
from penstock.recipe import Split, find
from penstock.schema import Field, Schema

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)  # from 32 bytes on xxHash has another way
KEYS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "string": (pa.string(), TEXTS),
    "int8": (pa.int8(), st.integers(-(2**7), 2**7 - 1)),
    "int16": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "bool": (pa.bool_(), st.booleans()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_hashes_are_sparks(kind: str, spark: SparkSession) -> None:
    of, values = KEYS[kind]

    @settings(max_examples=8)
    @given(st.lists(values, min_size=1, max_size=200))
    def agree(found: list[Any]) -> None:
        column = pa.array(found, of)
        rows = spark.createDataFrame(pa.table({"key": column})).select(F.xxhash64(F.col("key").cast("string")))
        assert places.hashes(column).tolist() == [row[0] for row in rows.collect()]

    agree()


DAYS = st.dates(datetime.date(2025, 1, 1), datetime.date(2027, 1, 1))
SHARES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1).map(
    lambda parts: {name: part / sum(parts.values()) for name, part in parts.items()}
)
SPLITS: dict[str, st.SearchStrategy[Split]] = {
    "hash": st.builds(Split, SHARES, rotate=st.floats(0, 0.99)),
    "source": st.builds(Split, SHARES, source=st.just("said")),
    "group": st.builds(Split, SHARES, by=st.just("group"), source=st.sampled_from([None, "said"])),
    "time": DAYS.map(lambda day: Split(by="time", before={"a": str(day), "b": "2026-07-01 12:00", "c": None})),
    "day": DAYS.map(lambda day: Split(by="day", before={"a": str(day), "b": None})),
    "number": st.integers(-9, 9).map(lambda n: Split(by="number", before={"a": n, "b": None}, source="said")),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_rows_have_the_places_and_the_order_that_spark_gives_them(kind: str, spark: SparkSession) -> None:
    @settings(max_examples=5)
    @given(
        SPLITS[kind],
        st.sampled_from([*KEYS]),
        st.integers(1, 4),
        st.data(),
        st.lists(st.tuples(DAYS, st.integers(-9, 9), st.sampled_from([None, "d", "e"])), min_size=1, max_size=60),
    )
    def agree(asked: Split, key: str, num_shards: int, data: st.DataObject, rest: list[tuple[Any, ...]]) -> None:
        of, values = KEYS[key]
        keys = data.draw(st.lists(values, min_size=1, max_size=len(rest), unique=True))
        days, numbers, said = zip(*rest[: len(keys)], strict=True)
        numbers_or_none = [number or None for number in numbers]
        rows = pa.table(
            {
                "key": pa.array(keys, of),
                "day": pa.array(days, pa.date32()),
                "time": pa.array([datetime.datetime(d.year, d.month, d.day, 12) for d in days], pa.timestamp("us")),
                "number": pa.array(numbers_or_none, pa.int64()),
                "group": pa.array(numbers_or_none, pa.int16()),
                "said": pa.array(said, pa.string()),
            }
        )
        schema = Schema((Field("key", key), Field("number", "int64")), key="key")
        assigned = split.assign(spark.createDataFrame(rows), schema, asked)
        placed = split.place(assigned, schema, num_shards).withColumn("_shard", F.spark_partition_id())
        expected = [row.asDict() for row in placed.collect()]

        hashed = places.hashes(rows["key"].combine_chunks())
        by, source = (rows[name].combine_chunks() if name else None for name in (asked.by, asked.source))
        columns = places.assign(hashed, asked, by, source)
        ours = pa.table({"key": rows["key"], "number": rows["number"], **columns})
        shards = enumerate(places.in_order(ours, "key", hashed, num_shards))
        found = [{**row, "_shard": shard} for shard, part in shards for row in part.to_pylist()]
        assert found == expected

    agree()


def digits_frame(digits_csv: Path) -> pd.DataFrame:
    """The digits as somebody would read them with pandas, and with the key that the recipe gives them."""
    with gzip.open(digits_csv) as file:
        values = np.loadtxt(file, np.uint8, delimiter=",")
    images = values[:, :64].reshape(-1, 8, 8)
    frame = pd.DataFrame({"label": values[:, 64]}, index=pd.Index(range(7, 7 + len(values)), name="unused"))
    frame["image"] = list(images)
    frame["id"] = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images]
    return frame.sample(frac=1, random_state=1)


def test_a_frame_of_the_digits_gives_the_bytes_that_etl_makes(
    digits_csv: Path, built_digits: Path, tmp_path: Path
) -> None:
    recipe = find("digits").dataset()
    card = penstock.write(digits_frame(digits_csv), tmp_path, recipe.schema, recipe.split, fit=recipe.fit)
    made = cards.load(str(built_digits))
    for name in ("schema", "counts", "splits", "transforms", "profile", "leakage", "duplicates", "contract"):
        assert getattr(card, name) == getattr(made, name), name
    contents = [
        [path.read_bytes() for path in sorted((root / at).rglob("split=*/*.parquet"))]
        for root, at in ((tmp_path, card.data), (built_digits, made.data))
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3
    assert penstock.read(tmp_path, as_="arrow").equals(penstock.read(built_digits, as_="arrow"))
