"""The files of a version: planned row groups, values in place, plain Parquet, and a recipe's columns checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl import publish, split
from etl.spark import user_errors
from etl.transform import pack
from penstock.errors import RecipeError
from penstock.recipe import Split
from penstock.schema import Field, Schema
from penstock.sketch import merge
from tests.etl.test_split import expected_split

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
GROUP_BYTES = 8_192
ROW_BYTES = 4 + 8 + 1 + 1 + 8 + 6  # the key's digits, x, flag, tiny, label, `word n`
SHARES = Split({"train": 0.8, "test": 0.2})


def rows(spark: SparkSession) -> DataFrame:
    numbers = [f"cast((id + {i}) % 1000 as short) x{i}" for i in range(4)]
    columns = ["cast(id as string) id", *numbers, "id % 2 = 0 flag", "cast(id % 100 as byte) tiny", "id % 10 label"]
    df = pack(spark.range(KEYS).selectExpr(*columns), [f"x{i}" for i in range(4)], into=SCHEMA["x"])
    return df.withColumn("word", F.concat(F.lit("word "), F.col("label").cast("string")))


def publish_rows(
    df: DataFrame, data_url: str, shares: Split = SHARES, shards: int = 3, **options: Any
) -> publish.Written:
    placed = split.place(split.assign(publish.conform(df, SCHEMA), SCHEMA, shares), SCHEMA, shards)
    with user_errors("raw", "out"):
        return publish.write(placed, SCHEMA, shares, GROUP_BYTES, data_url, **options)


@pytest.fixture(scope="module")
def written(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, publish.Written]:
    """8,000 rows in row groups of some 8 KB: the data folder, and what was read back."""
    data_url = f"file://{tmp_path_factory.mktemp('published')}/data"
    return data_url, publish_rows(rows(spark), data_url)


def files(data_url: str) -> dict[str, bytes]:
    folder = Path(data_url.removeprefix("file://"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_row_is_read_back_with_its_values(written: tuple[str, publish.Written]) -> None:
    data_url, found = written
    table = pq.read_table(data_url.removeprefix("file://"), columns=SCHEMA.names)
    table = table.take(pc.sort_indices(pc.cast(table["id"], pa.int64())))
    assert table["id"].to_pylist() == [str(i) for i in range(KEYS)]
    x = (np.arange(KEYS)[:, None] + np.arange(4)) % 1000
    assert table["x"].to_pylist() == [row.tobytes() for row in x.astype("<i2")]
    assert table["label"].to_pylist() == [i % 10 for i in range(KEYS)]
    assert (found.num_rows, found.duplicates) == (KEYS, 0)
    elements = merge([profile.numbers["x"] for profile in found.profiles(SCHEMA).values()])
    assert (elements.count, elements.total, elements.squares) == (x.size, int(x.sum()), int((x * x).sum()))


def test_row_groups_are_even_and_as_large_as_asked(written: tuple[str, publish.Written]) -> None:
    for audit in written[1].audits["train"]:
        *even, last = audit.row_groups["num_rows"].to_pylist()
        assert len(set(even)) == 1
        assert even[0] - len(even) <= last <= even[0]
        assert abs(even[0] * ROW_BYTES / GROUP_BYTES - 1) < 0.2


def test_the_same_rows_from_other_partitions_are_the_same_bytes(
    spark: SparkSession, written: tuple[str, publish.Written], tmp_path: Path
) -> None:
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "77")
    publish_rows(rows(spark).repartition(7), f"file://{tmp_path}")
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert list(files(f"file://{tmp_path}").values()) == list(files(written[0]).values())


@pytest.mark.parametrize("batch", ["1", "2", "10000"])
def test_one_row_of_each_key_is_kept_in_batches_of_any_size(spark: SparkSession, tmp_path: Path, batch: str) -> None:
    twice = rows(spark).where("label < 5 and cast(id as int) < 400")
    df = twice.union(twice.withColumn("word", F.lit("a smaller word"))).union(twice)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", batch)
    found = publish_rows(df, f"file://{tmp_path}", shards=2)
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert (found.num_rows, found.duplicates) == (200, 400)
    table = pq.read_table(tmp_path)
    assert len(set(table["id"].to_pylist())) == 200
    assert set(table["word"].to_pylist()) == {"a smaller word"}


def rows_of(folder: Path) -> list[dict[str, object]]:
    return sorted(pq.read_table(folder).to_pylist(), key=str)


@pytest.mark.parametrize("batch", ["1", "3", "10000"])
def test_dropped_rows_are_listed_and_exact_ones_counted_apart(spark: SparkSession, tmp_path: Path, batch: str) -> None:
    once = rows(spark).where("cast(id as int) < 40")
    tenth = once.where("label = 1")
    other = tenth.withColumn("word", F.lit("zzz")).union(tenth.withColumn("word", F.lit("zzz")))  # equal, but dropped
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", batch)
    found = publish_rows(
        once.union(other).union(tenth).union(tenth),
        f"file://{tmp_path}/data",
        shards=2,
        duplicates_url=f"file://{tmp_path}/dropped",
    )
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert (found.num_rows, found.duplicates, found.exact_duplicates) == (40, 16, 8)
    listed = pq.read_table(tmp_path / "dropped")
    assert listed.column_names == [*SCHEMA.names, "exact"]
    told = [(row["id"], row["word"], row["exact"]) for row in rows_of(tmp_path / "dropped")]
    copies = [(word, exact) for word, exact in (("word 1", True), ("zzz", False)) for _ in range(2)]
    assert sorted(told) == sorted((str(i), *copy) for i in (1, 11, 21, 31) for copy in copies)


def test_no_list_of_duplicates_is_written_where_there_is_none(spark: SparkSession, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/dropped"
    found = publish_rows(rows(spark).limit(20), f"file://{tmp_path}/data", duplicates_url=url)
    assert (found.duplicates, found.exact_duplicates, files(url)) == (0, 0, {})


def test_rows_of_other_splits_that_differ_in_the_key_alone_are_counted(spark: SparkSession, tmp_path: Path) -> None:
    df = rows(spark).where("cast(id as int) < 100")
    # What differs from row to row is made the same, so that ten different contents are left.
    few = df.withColumns({"tiny": F.lit(1).cast("byte"), "x": F.lit(b"8 bytes.").cast("binary"), "flag": F.lit(True)})
    found = publish_rows(few, f"file://{tmp_path}/few", shards=3)
    sides = [{expected_split(key, SHARES) for key in range(label, 100, 10)} for label in range(10)]
    both = sum(len(names) > 1 for names in sides)
    assert both > 0
    assert found.leakage == {"keys": 0, "equal_rows": both, "compared": 1.0}
    assert publish_rows(df, f"file://{tmp_path}/all").leakage == {"keys": 0, "equal_rows": 0, "compared": 1.0}


def test_a_group_is_in_one_split_or_it_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    by_word = Split(SHARES.shares, by="word")
    df = rows(spark).limit(200)
    found = publish_rows(df, f"file://{tmp_path}/by", by_word)
    assert found.leakage == {"keys": 0, "equal_rows": 0, "compared": 1.0, "groups": 0, "compared_groups": 1.0}
    words = {name: set(pq.read_table(tmp_path / "by" / f"split={name}")["word"].to_pylist()) for name in SHARES.names}
    assert words["train"] & words["test"] == set()
    assert words["train"] | words["test"] == {f"word {i}" for i in range(10)}
    torn = Split(SHARES.shares, by="word", source="said")
    said = df.withColumn("said", F.expr("if(id in ('3', '13'), if(id = '3', 'train', 'test'), null)"))
    with pytest.raises(
        RecipeError, match=r"split: 1 groups of 'word' have rows in several splits, since column 'said'"
    ):
        publish_rows(said, f"file://{tmp_path}/torn", torn)


def test_a_row_without_a_time_has_no_split_and_is_said(spark: SparkSession, tmp_path: Path) -> None:
    by_time = Split(by="time", before={"train": 10, "test": None})
    df = rows(spark).limit(30).withColumn("time", F.expr("nullif(cast(id as int), 7)"))
    with pytest.raises(RecipeError, match=r"split: 1 rows have nothing in column 'time', which says their split"):
        publish_rows(df, f"file://{tmp_path}", by_time)
    found = publish_rows(df.where("id <> '7'"), f"file://{tmp_path}/known", by_time)
    assert {name: sum(a.num_rows for a in audits) for name, audits in found.audits.items()} == {"train": 9, "test": 20}


def test_a_large_shard_becomes_several_files(
    spark: SparkSession, tmp_path: Path, written: tuple[str, publish.Written]
) -> None:
    data_url = f"file://{tmp_path}"
    found = publish_rows(rows(spark), data_url, file_bytes=20_000)
    assert found.num_rows == KEYS
    sizes = [a.num_rows * ROW_BYTES for a in found.audits["train"]]
    assert max(sizes) < 20_500  # some keys have fewer digits
    assert sum(size > 19_500 for size in sizes) >= len(sizes) - 3  # all but the last of each shard
    paths = [[Path(url.removeprefix("file://")) / name for name in files(url)] for url in (data_url, written[0])]
    first, other = (pa.concat_tables([pq.ParquetFile(path).read() for path in p]) for p in paths)
    assert first.equals(other)  # cut, and else as it was


def test_what_a_lost_task_has_written_is_removed(spark: SparkSession, tmp_path: Path) -> None:
    left = tmp_path / "split=train" / "part-00000-9-00000.parquet"
    left.parent.mkdir()
    left.write_bytes(b"half a file")
    found = publish_rows(rows(spark).limit(50), f"file://{tmp_path}")
    assert not left.exists()
    assert found.num_rows == 50


def test_splits_come_in_the_order_of_the_recipe_and_an_empty_one_has_no_files(
    spark: SparkSession, tmp_path: Path
) -> None:
    sourced = Split({"train": 0.7, "never": 0.0000001, "a_test": 0.2999999}, source="said")
    df = rows(spark).limit(100).withColumn("said", F.expr("if(id = '5', 'b-1', null)"))
    audits = publish_rows(df, f"file://{tmp_path}", sourced).audits
    assert list(audits) == ["train", "never", "a_test", "b-1"]
    assert [sum(a.num_rows for a in audits[name]) for name in ("never", "b-1")] == [0, 1]
    names = [name for a in audits["train"] for name in a.row_groups["file"].unique().to_pylist()]
    assert names == sorted(names)


@pytest.mark.parametrize("name", ["a/b", "", "..", "a b"])
def test_a_split_that_cannot_be_a_folder_is_refused(spark: SparkSession, tmp_path: Path, name: str) -> None:
    df = rows(spark).limit(3).withColumn("said", F.lit(name))
    with pytest.raises(RecipeError, match=f"split: '{name}' cannot name a split; use letters, digits, '_' and '-'"):
        publish_rows(df, f"file://{tmp_path}/data", Split({"train": 1.0}, source="said"))
    assert files(f"file://{tmp_path}") == {}


@pytest.mark.parametrize("batch", ["1", "10000"])
def test_a_key_in_two_splits_is_refused(spark: SparkSession, tmp_path: Path, batch: str) -> None:
    df = rows(spark).limit(30)
    df = df.withColumn("said", F.lit("z")).union(df.where("id = '7'").withColumn("said", F.lit("a")))
    message = "split: the rows of key '7' are in the splits 'a' and 'z'; column 'said' must name one split for all rows"
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", batch)
    with pytest.raises(RecipeError, match=message):
        publish_rows(df, f"file://{tmp_path}", Split({"train": 1.0}, source="said"))
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")


def test_every_value_of_fixed_width_lies_in_place(written: tuple[str, publish.Written]) -> None:
    for audit in (a for audits in written[1].audits.values() for a in audits):
        for columns in audit.row_groups["columns"].to_pylist():
            placed = {name for name, place in columns.items() if place["values"] is not None}
            assert placed == {"x", "tiny", "label"}


def test_files_are_plain_parquet_without_whole_tensors_in_their_footers(
    written: tuple[str, publish.Written],
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
