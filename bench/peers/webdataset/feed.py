"""webdataset: tar shards, a buffer of 10,000 rows, batches made in two workers of its WebLoader.

A row is one member of the archive for all columns of fixed width, as bytes, and one for a list or an image: a member
for each scalar would make the archive many times as large. Source: webdataset's README and docs, "Sharded datasets".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from bench.cases import Case
from bench.clock import BATCH_ROWS, Batch, Epoch
from bench.peers.serve import NUM_WORKERS, collate, converted, read_columns, serve

SHUFFLE_ROWS = 10_000
NUM_SHARDS = 8


def record(case: Case) -> np.dtype[Any]:
    """The columns of fixed width as one value."""
    fields = [case.schema[name] for name in case.columns]
    return np.dtype([(field.name, field.dtype, field.shape) for field in fields if not field.is_varying])


def convert(folder: Path, case: Case, files: Sequence[Path]) -> None:
    fixed = record(case)
    varying = [name for name in case.columns if name not in fixed.names]
    writers = [webdataset.TarWriter(str(folder / f"{shard:03d}.tar")) for shard in range(NUM_SHARDS)]
    number = 0
    for columns in read_columns(case, files):
        rows = np.empty(len(columns[fixed.names[0]]), fixed)
        for name in fixed.names:
            rows[name] = columns[name]
        for i, row in enumerate(rows):
            members = {f"{name}.bin": bytes(columns[name][i]) for name in varying}
            key = {"__key__": f"{number:08d}", "row.bin": row.tobytes()}
            writers[number % NUM_SHARDS].write(key | members)
            number += 1
    for writer in writers:
        writer.close()


def to_batch(case: Case, rows: list[dict[str, Any]]) -> Batch:
    fixed = record(case)
    records = np.frombuffer(b"".join(row["row.bin"] for row in rows), fixed)
    batch = {name: torch.from_numpy(np.ascontiguousarray(records[name])) for name in fixed.names}
    for name in case.columns:
        if name not in fixed.names:
            values = [row[f"{name}.bin"] for row in rows]
            if case.schema[name].is_list:
                values = [np.frombuffer(value, case.schema[name].dtype).copy() for value in values]
            batch[name] = collate(case, name, values)
    return batch


def prepare(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    folder = converted(out / "webdataset", lambda folder: convert(folder, case, files))
    shards = sorted(map(str, folder.glob("*.tar")))
    rows = webdataset.WebDataset(shards, shardshuffle=NUM_SHARDS).shuffle(SHUFFLE_ROWS)
    rows = rows.batched(BATCH_ROWS, collation_fn=partial(to_batch, case))
    loader = webdataset.WebLoader(rows, batch_size=None, num_workers=NUM_WORKERS, persistent_workers=True)
    return lambda _number: loader


if __name__ == "__main__":
    serve({"webdataset": prepare}, ["webdataset"])
