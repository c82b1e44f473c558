"""Stock Petastorm: `make_batch_reader` with its shuffled BatchedDataLoader, `make_reader` with its DataLoader.

batched: our Parquet files, a TransformSpec that makes tensors of the bytes in Petastorm's workers (three times as fast
as Parquet lists), rows shuffled in each row group and batches drawn from a shuffling buffer.
reader: a Petastorm dataset with NdarrayCodec, read row by row through a shuffling queue, as its MNIST example does.

Both with two threads. Source: petastorm's docs, "API", and examples/mnist.
Its thread pool loses rows now and then; what arrives is what counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from petastorm import TransformSpec, make_batch_reader, make_reader
from petastorm.codecs import CompressedImageCodec, NdarrayCodec, ScalarCodec
from petastorm.etl import dataset_metadata
from petastorm.pytorch import BatchedDataLoader, DataLoader
from petastorm.unischema import Unischema, UnischemaField
from petastorm.utils import add_to_dataset_metadata
from pyspark.sql import types as spark_types

from bench.cases import MAX_TOKENS, Case
from bench.clock import BATCH_ROWS, Batch, Epoch
from bench.peers.serve import NUM_WORKERS, collate_rows, converted, decode, read_columns, serve
from penstock.schema import Field

SHUFFLE_ROWS = 10_000
SPARK_TYPES = {
    "int32": spark_types.IntegerType(),
    "int64": spark_types.LongType(),
    "float32": spark_types.FloatType(),
    "float64": spark_types.DoubleType(),
}
READER = {"reader_pool_type": "thread", "workers_count": NUM_WORKERS, "num_epochs": 1}


def to_arrays(field: Field, values: pd.Series) -> list[np.ndarray]:
    """Arrays of one shape, as Petastorm asks of a TransformSpec: lists are as wide as the longest of all."""
    if field.is_list:
        return [np.pad(value, (0, MAX_TOKENS - len(value))) for value in values]
    if field.is_encoded:
        return [decode(value) for value in values]
    return list(np.frombuffer(b"".join(values), field.dtype).reshape(-1, *field.shape))


def to_tensors(case: Case) -> TransformSpec | None:
    """Parquet's values to arrays, in Petastorm's workers."""
    fields = [case.schema[name] for name in case.columns if case.schema[name].shape]

    def transform(rows: pd.DataFrame) -> pd.DataFrame:
        for field in fields:
            rows[field.name] = to_arrays(field, rows[field.name])
        return rows

    shapes = {field.name: (MAX_TOKENS,) if field.is_list else field.shape for field in fields}
    edited = [(field.name, np.dtype(field.dtype).type, shapes[field.name], False) for field in fields]
    return TransformSpec(transform, edit_fields=edited) if fields else None


def batched(case: Case, files: Sequence[Path], _out: Path) -> Epoch:
    reads = {
        "schema_fields": case.columns,
        "transform_spec": to_tensors(case),
        "convert_early_to_numpy": True,
        **READER,
    }

    def epoch(number: int) -> Iterator[Batch]:
        reader = make_batch_reader(f"file://{files[0].parent}", shuffle_rows=True, seed=number + 1, **reads)
        with BatchedDataLoader(reader, batch_size=BATCH_ROWS, shuffling_queue_capacity=SHUFFLE_ROWS) as loader:
            yield from loader

    return epoch


def codec(field: Field) -> Any:
    if field.is_encoded:
        return CompressedImageCodec(field.encoding)
    return NdarrayCodec() if field.shape else ScalarCodec(SPARK_TYPES[field.dtype])


def unischema(case: Case) -> Unischema:
    fields = [case.schema[name] for name in case.columns]
    return Unischema(
        "Bench", [UnischemaField(f.name, np.dtype(f.dtype).type, f.shape, codec(f), False) for f in fields]
    )


def encode(field: UnischemaField, value: Any) -> Any:
    return field.codec.encode(field, decode(value) if isinstance(value, bytes) else value)


def convert(folder: Path, case: Case, files: Sequence[Path]) -> None:
    """What `materialize_dataset` makes, less Spark."""
    schema, row_groups = unischema(case), {}
    for number, columns in enumerate(read_columns(case, files)):
        encoded = {name: [encode(schema.fields[name], value) for value in values] for name, values in columns.items()}
        file = f"part-{number:05d}.parquet"
        pq.write_table(pa.table(encoded), folder / file, compression="none")
        row_groups[file] = 1
    dataset = dataset_metadata.pq.ParquetDataset(str(folder), use_legacy_dataset=True)
    dataset_metadata._generate_unischema_metadata(dataset, schema)
    add_to_dataset_metadata(dataset, dataset_metadata.ROW_GROUPS_PER_FILE_KEY, json.dumps(row_groups))


def row_by_row(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    folder = converted(out / "petastorm", lambda folder: convert(folder, case, files))
    # Its own collate stacks arrays of one shape only.
    collate = {"collate_fn": partial(collate_rows, case)} if any(case.schema[n].is_list for n in case.columns) else {}

    def epoch(number: int) -> Iterator[Batch]:
        reader = make_reader(f"file://{folder}", shuffle_rows=True, seed=number + 1, **READER)
        with DataLoader(reader, batch_size=BATCH_ROWS, **collate, shuffling_queue_capacity=SHUFFLE_ROWS) as loader:
            yield from loader

    return epoch


if __name__ == "__main__":
    serve({"batched": batched, "reader": row_by_row}, ["petastorm", "pyarrow", "numpy"])
