"""Writes placed rows as the files of a version, reads every byte of them back, and says what was written.

One task does a whole shard. Its rows come sorted by hash and key, so that equal keys lie side by side: it keeps the
first of each, writes its files, and audits them as they then lie in the storage. Arrow writes them, not Spark, because
a task can do all that in one pass, and because the bytes then depend on the rows alone: the footers that Spark's
writer gives list the encodings in another order from one JVM to the next.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame

from penstock import store
from penstock.audit import FileAudit, audit_file
from penstock.errors import RecipeError
from penstock.recipe import Split
from penstock.schema import Field, Schema

SPARK_TYPES = {"bool": "boolean", "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}
SPARK_TYPES |= {"float32": "float", "float64": "double", "string": "string", "bytes": "binary"}
FILE_BYTES = 128 << 20
ONE_PAGE_BYTES = 1 << 30
WRITTEN = pa.schema({"split": pa.string(), "file": pa.string(), "audit": pa.binary(), "duplicates": pa.int64()})


@dataclass(frozen=True)
class Written:
    """For each split its files, in order of their names; and the rows whose key an earlier row had."""

    audits: Mapping[str, Sequence[FileAudit]]
    duplicates: int

    @property
    def num_rows(self) -> int:
        return sum(audit.num_rows for audits in self.audits.values() for audit in audits)


def spark_type(field: Field) -> str:
    if field.is_list:
        return f"array<{SPARK_TYPES[field.dtype]}>"
    return "binary" if field.shape else SPARK_TYPES[field.dtype]


def conform(df: DataFrame, schema: Schema) -> DataFrame:
    """The rows as they are. Raises: RecipeError where they lack a column of the schema or have it of another type."""
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


def write(
    placed: DataFrame,
    schema: Schema,
    split: Split,
    row_group_bytes: int,
    data_url: str,
    sums_of: Sequence[str],
    file_bytes: int = FILE_BYTES,
) -> Written:
    """Runs the job: a task for each partition of `placed`, files in `split=<name>/` of `data_url`.

    Raises: RecipeError for a split whose name cannot be that of a folder, and for a key that is in two splits;
    DatasetError for nulls and tensors of another width.
    """

    def write_shard(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task = TaskContext.get()
        assert task is not None
        assert schema.key is not None
        shard = f"part-{task.partitionId():05d}-{task.taskAttemptId()}"  # a second attempt meets no file of the first
        duplicates = num_files = 0

        def written(name: str, rows: pa.Table) -> pa.RecordBatch:
            nonlocal num_files
            file = f"split={name}/{shard}-{num_files:05d}.parquet"
            num_files += 1
            store.write(store.join(data_url, file), parquet(rows, schema, row_group_bytes))
            audit = audit_file(data_url, file, name, schema, sums_of)
            return _record(split=name, file=file, audit=audit.to_bytes())

        pending: dict[str, pa.Table] = {}
        for batch, is_first in _with_firsts(batches, schema.key, split):
            duplicates += batch.num_rows - is_first.true_count
            splits = batch.column("split")
            for name in splits.unique().to_pylist():
                _check_name(name)
                rows = batch.select(schema.names).filter(pc.and_(is_first, pc.equal(splits, name)))
                rows = pa.concat_tables([*([pending[name]] if name in pending else []), pa.table(rows)])
                while (num_rows := rows_of_a_file(rows, schema, file_bytes)) < rows.num_rows:
                    yield written(name, rows.slice(0, num_rows))
                    rows = rows.slice(num_rows)
                pending[name] = rows
        for name, rows in pending.items():
            yield written(name, rows)
        yield _record(duplicates=duplicates)

    rows = placed.mapInArrow(write_shard, "split string, file string, audit binary, duplicates long").collect()
    files = sorted((row["split"], row["file"], row["audit"]) for row in rows if row["audit"] is not None)
    for left in set(store.file_names(data_url)) - {file for _, file, _ in files}:
        store.remove(store.join(data_url, left))  # by a task that was run again
    audits: dict[str, list[FileAudit]] = {name: [] for name in [*split.shares, *(name for name, _, _ in files)]}
    for name, _, audit in files:
        audits[name].append(FileAudit.from_bytes(audit))
    return Written(audits, sum(row["duplicates"] or 0 for row in rows))


def rows_of_a_file(rows: pa.Table, schema: Schema, file_bytes: int) -> int:
    """How many of the rows, from the first, make a file of at most so many bytes, or of one row."""
    return max(1, int(np.searchsorted(np.cumsum(row_bytes(rows, schema)), file_bytes, side="right")))


def row_bytes(rows: pa.Table, schema: Schema) -> npt.NDArray[np.int64]:
    """(n,) the bytes of each row's values."""
    widths = np.full(rows.num_rows, sum(field.num_bytes for field in schema.fields if not field.is_varying))
    for field in (field for field in schema.fields if field.is_varying):
        if field.is_list:
            lengths, width = pc.list_value_length(rows[field.name]), field.numpy_dtype.itemsize
        else:
            lengths, width = pc.binary_length(rows[field.name]), 1
        widths += width * pc.fill_null(lengths, 0).to_numpy()
    return widths


def parquet(rows: pa.Table, schema: Schema, row_group_bytes: int) -> memoryview:
    """A Parquet file of even row groups, values of fixed width uncompressed and in one page."""
    num_groups = min(rows.num_rows, max(1, round(int(row_bytes(rows, schema).sum()) / row_group_bytes)))
    rows_per_group = math.ceil(rows.num_rows / num_groups)
    columns = pa.schema([(field.name, field.arrow_type) for field in schema.fields])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        columns,
        compression="none",
        use_dictionary=[field.name for field in schema.fields if field.dtype == "string" and field.name != schema.key],
        # Else footers hold whole images as minimum and maximum.
        write_statistics=[leaf(field) for field in schema.fields if spark_type(field) != "binary"],
        data_page_size=ONE_PAGE_BYTES,
        max_rows_per_page=2**31 - 1,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        for start in range(0, rows.num_rows, rows_per_group):
            # In one piece, so that a dictionary does not depend on how the rows arrived.
            group = rows.slice(start, rows_per_group).combine_chunks()
            writer.write_table(group.cast(columns), rows_per_group)
    return memoryview(sink.getvalue())


def leaf(field: Field) -> str:
    return f"{field.name}.list.element" if field.is_list else field.name


def _with_firsts(
    batches: Iterable[pa.RecordBatch], key: str, split: Split
) -> Iterator[tuple[pa.RecordBatch, pa.BooleanArray]]:
    """Each batch, and whether a row is the first of its key. Rows of one key come one after the other."""
    last = None
    for batch in (batch for batch in batches if batch.num_rows):
        keys, splits = batch.column(key), batch.column("split")
        keys_before, splits_before = (
            pa.concat_arrays([pa.nulls(1, column.type) if last is None else last.column(name), column[:-1]])
            for name, column in ((key, keys), ("split", splits))
        )
        last = batch.slice(batch.num_rows - 1)
        repeated = pc.fill_null(pc.equal(keys, keys_before), False)
        torn = pc.and_(repeated, pc.fill_null(pc.not_equal(splits, splits_before), False))
        if torn.true_count:
            i = pc.index(torn, True).as_py()
            names = sorted([splits_before[i].as_py(), splits[i].as_py()])
            raise RecipeError(
                f"split: the rows of key {keys[i].as_py()!r} are in the splits {names[0]!r} and {names[1]!r}; "
                f"column {split.source!r} must name one split for all rows of a key"
            )
        yield batch, pc.invert(repeated)


def _check_name(split: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise RecipeError(f"split: {split!r} cannot name a split; use letters, digits, '_' and '-'")


def _record(**values: str | bytes | int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([values], schema=WRITTEN)
