"""Placed rows as the files of a version: a task of Spark writes a whole shard, reads it back, and says what it wrote.

penstock/shards.py is what such a task does. Not Spark but Arrow writes the files, because a task can do all that in one
pass, and because the bytes then depend on the rows alone: the footers that Spark's writer gives list the encodings in
another order from one JVM to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame

from penstock import leakage, shards
from penstock.errors import RecipeError
from penstock.recipe import Split
from penstock.schema import Field, Schema
from penstock.shards import FILE_BYTES, Layout, Written

SPARK_TYPES = {"bool": "boolean", "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}
SPARK_TYPES |= {"float32": "float", "float64": "double", "string": "string", "bytes": "binary"}
WRITTEN_COLUMNS = (
    "split string, file string, audit binary, duplicates long, exact_duplicates long, contents binary, groups binary, "
    "found string"
)


def spark_type(field: Field) -> str:
    if field.is_list:
        return f"array<{SPARK_TYPES[field.dtype]}>"
    return "binary" if field.shape else SPARK_TYPES[field.dtype]


def conform(df: DataFrame, schema: Schema, made_by: str = "clean()") -> DataFrame:
    """The rows as they are. Raises: RecipeError where they lack a column of the schema or have it of another type."""
    found = {field.name: field.dataType.simpleString() for field in df.schema.fields}
    expected = {field.name: spark_type(field) for field in schema.fields}
    differs = [
        f"{name} must be {kind}, is {found.get(name, 'missing')}"
        for name, kind in expected.items()
        if found.get(name) != kind
    ]
    if differs:
        raise RecipeError(f"{made_by} gives other columns than the recipe's schema: {'; '.join(differs)}")
    return df


def write(
    placed: DataFrame,
    schema: Schema,
    split: Split,
    row_group_bytes: int,
    data_url: str,
    file_bytes: int = FILE_BYTES,
    duplicates_url: str | None = None,
    most_compared: int = leakage.MOST_COMPARED,
    look_for: Mapping[str, Collection[str]] | None = None,
) -> Written:
    """Runs the job: a task for each partition of `placed`. What the other arguments say, `Layout` tells.

    Raises: RecipeError for a split whose name cannot be that of a folder, and for a key or a group that is in two
    splits; DatasetError for nulls and tensors of another width.
    """
    layout = Layout(schema, split, row_group_bytes, data_url, file_bytes, duplicates_url, most_compared, look_for)

    def write_shard(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task = TaskContext.get()
        assert task is not None
        # A second attempt meets no file of the first.
        return shards.write_shard(batches, f"part-{task.partitionId():05d}-{task.taskAttemptId()}", layout)

    records = placed.mapInArrow(write_shard, WRITTEN_COLUMNS).collect()
    return shards.written([record.asDict() for record in records], layout)
