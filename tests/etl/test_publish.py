"""The files of a version: planned row groups, values in place, plain Parquet, and a recipe's columns checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from etl import publish, split
from etl.transform import pack
from penstock.audit import FileAudit
from penstock.errors import RecipeError
from penstock.recipe import Split
from penstock.schema import Field, Schema

SCHEMA = Schema(
    (
        Field("id", "string"),
        Field("x", "int16", (4,)),
        Field("flag", "bool"),
        Field("tiny", "int8"),
        Field("label", "int64"),
        Field("word", "string"),
    ),
    key="id",
    label="label",
)
KEYS = 8_000
GROUP_BYTES = 2_048
ROW_BYTES = 3.86 + 8 + 1 + 1 + 8 + 8  # 3.86 digits in a number below 8,000; a word of 8 letters


@pytest.fixture(scope="module")
def written(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[FileAudit]]]:
    """8,000 rows in row groups of some 2 KB: the data folder, and what was read back."""
    numbers = [f"cast((id + {i}) % 1000 as short) x{i}" for i in range(4)]
    columns = ["cast(id as string) id", *numbers, "id % 2 = 0 flag", "cast(id % 100 as byte) tiny", "id % 10 label"]
    df = pack(spark.range(KEYS).selectExpr(*columns), [f"x{i}" for i in range(4)], into=SCHEMA["x"])
    shares = Split({"train": 0.8, "test": 0.2})
    rows = split.assign(publish.conform(df.withColumn("word", F.lit("the same")), SCHEMA), SCHEMA, shares)
    num_rows, row_bytes = split.count(rows, SCHEMA, shares)
    layout = split.plan(num_rows, row_bytes, GROUP_BYTES)
    data_url = f"file://{tmp_path_factory.mktemp('published')}/data"
    publish.write(split.number_duplicates(split.place(rows, layout), SCHEMA), SCHEMA, layout, data_url)
    return data_url, publish.read_back(spark, data_url, SCHEMA, num_rows, sums_of=["x"])


def test_every_row_is_read_back_with_its_values(written: tuple[str, dict[str, list[FileAudit]]]) -> None:
    data_url, audits = written
    table = pq.read_table(data_url.removeprefix("file://"), columns=SCHEMA.names)
    table = table.take(pa.compute.sort_indices(pa.compute.cast(table["id"], pa.int64())))
    assert table["id"].to_pylist() == [str(i) for i in range(KEYS)]
    x = (np.arange(KEYS)[:, None] + np.arange(4)) % 1000
    assert table["x"].to_pylist() == [row.tobytes() for row in x.astype("<i2")]
    assert table["label"].to_pylist() == [i % 10 for i in range(KEYS)]
    assert sum(a.num_rows for files in audits.values() for a in files) == KEYS
    sums = [sum(column) for column in zip(*(a.sums["x"] for files in audits.values() for a in files), strict=True)]
    assert sums == [x.size, int(x.sum()), int((x * x).sum())]


def test_row_groups_are_even_and_as_large_as_asked(written: tuple[str, dict[str, list[FileAudit]]]) -> None:
    layout_rows = set()
    for audit in (a for files in written[1].values() for a in files):
        *even, last = audit.row_groups["num_rows"].to_pylist()
        assert even
        layout_rows |= set(even)
        assert last <= even[0]
    assert len(layout_rows) == 1  # all alike but the last of each file
    assert abs(layout_rows.pop() * ROW_BYTES / GROUP_BYTES - 1) < 0.1


def test_every_value_of_fixed_width_lies_in_place(written: tuple[str, dict[str, list[FileAudit]]]) -> None:
    for audit in (a for files in written[1].values() for a in files):
        for columns in audit.row_groups["columns"].to_pylist():
            placed = {name for name, place in columns.items() if place["values"] is not None}
            assert placed == {"x", "tiny", "label"}


def test_files_are_plain_parquet_without_whole_tensors_in_their_footers(
    written: tuple[str, dict[str, list[FileAudit]]],
) -> None:
    folder = Path(written[0].removeprefix("file://"))
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert {name.split("/")[0] for name in names} == {"split=test", "split=train"}
    assert all(name.endswith(".parquet") for name in names)  # no _SUCCESS, no .crc
    for name in names:
        group = pq.read_metadata(folder / name).row_group(0)
        chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert {chunk.compression for chunk in chunks.values()} == {"UNCOMPRESSED"}
        assert not chunks["x"].is_stats_set or not chunks["x"].statistics.has_min_max
        assert chunks["word"].has_dictionary_page  # of few words a string column keeps numbers


def test_audits_come_in_the_order_of_files_and_an_empty_split_has_none(
    spark: SparkSession, written: tuple[str, dict[str, list[FileAudit]]]
) -> None:
    data_url, audits = written
    again = publish.read_back(spark, data_url, SCHEMA, ["test", "never", "train"], sums_of=[])
    assert list(again) == ["test", "never", "train"]
    assert again["never"] == []
    files = [name for a in again["train"] for name in a.row_groups["file"].unique().to_pylist()]
    assert files == sorted(files)
    assert [a.digest for a in again["test"]] == [a.digest for a in audits["test"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("id, tiny", "label must be bigint, is missing"),
        ("id, tiny, cast(label as int) label", "label must be bigint, is int"),
        ("cast(id as long) id, tiny, label", "id must be string, is bigint"),
    ],
)
def test_other_columns_than_the_schemas_are_the_recipes_error(spark: SparkSession, change: str, message: str) -> None:
    schema = Schema((SCHEMA["id"], SCHEMA["tiny"], SCHEMA["label"]), key="id")
    df = spark.range(1).selectExpr("cast(id as string) id", "cast(id as byte) tiny", "id label")
    assert publish.conform(df.withColumn("more", F.lit(1)), schema).columns == ["id", "tiny", "label", "more"]
    with pytest.raises(RecipeError, match=f"clean.. gives other columns than the recipe's schema: {message}"):
        publish.conform(df.selectExpr(*change.split(", ")), schema)
