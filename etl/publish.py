"""Writes rows as the files of a version, reads every byte of them back, and says what was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from etl.split import Layout
from penstock import store
from penstock.audit import FileAudit, audit_file
from penstock.errors import RecipeError
from penstock.schema import Field, Schema

SPARK_TYPES = {"bool": "boolean", "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}
SPARK_TYPES |= {"float32": "float", "float64": "double", "string": "string", "bytes": "binary"}
ONE_PAGE_BYTES = 1 << 30


def spark_type(field: Field) -> str:
    if field.is_list:
        return f"array<{SPARK_TYPES[field.dtype]}>"
    return "binary" if field.shape else SPARK_TYPES[field.dtype]


def conform(df: DataFrame, schema: Schema) -> DataFrame:
    """The schema's columns and `split`, in order. Raises: RecipeError where the recipe's rows have others."""
    found = {field.name: field.dataType.simpleString() for field in df.schema.fields}
    expected = {field.name: spark_type(field) for field in schema.fields}
    differs = [
        f"{name} must be {kind}, is {found.get(name, 'missing')}"
        for name, kind in expected.items()
        if found.get(name) != kind
    ]
    if differs:
        raise RecipeError(f"clean() gives other columns than the recipe's schema: {'; '.join(differs)}")
    return df


def write(df: DataFrame, schema: Schema, layout: Layout, data_url: str) -> None:
    """One file per partition, row groups of equal rows, values of fixed width uncompressed and in one page."""
    options = {
        "compression": "uncompressed",
        "parquet.block.row.count.limit": str(layout.rows_per_group),
        "parquet.page.size": str(ONE_PAGE_BYTES),
        "parquet.page.row.count.limit": str(2**31 - 1),
    }
    for field in schema.fields:
        column = f"{field.name}.list.element" if field.is_list else field.name
        if field.dtype != "string" or field.name == schema.key:
            options[f"parquet.enable.dictionary#{column}"] = "false"
        if spark_type(field) == "binary":  # else footers hold whole images as minimum and maximum
            options[f"parquet.column.statistics.enabled#{column}"] = "false"
    df.select(*schema.names, "split").write.options(**options).partitionBy("split").parquet(data_url)


def read_back(
    spark: SparkSession, data_url: str, schema: Schema, splits: Iterable[str], sums_of: Sequence[str]
) -> dict[str, list[FileAudit]]:
    """Audits every file on the executors: for each of the splits its files, in order of their names."""
    files = [name for name in store.file_names(data_url) if name.endswith(".parquet")]
    split_of = [name.split("/")[0].removeprefix("split=") for name in files]

    def audit(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for i in (i for batch in numbers for i in batch.column(0).to_pylist()):
            found = audit_file(data_url, files[i], split_of[i], schema, sums_of)
            yield pa.RecordBatch.from_pylist([{"number": i, "audit": found.to_bytes()}])

    one_per_task = spark.range(0, len(files), 1, max(1, len(files)))
    found = one_per_task.mapInArrow(audit, "number long, audit binary").collect()
    audits: dict[str, list[FileAudit]] = {name: [] for name in splits}
    for row in sorted(found, key=lambda row: row["number"]):
        audits[split_of[row["number"]]].append(FileAudit.from_bytes(row["audit"]))
    return audits
