"""Ray Data: Parquet with its tensor type, files in random order, `iter_torch_batches` with a local shuffling buffer.

Source: Ray's docs, "Shuffling data" and "Working with PyTorch".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import ray

from bench.cases import Case
from bench.clock import BATCH_ROWS, Batch, Epoch
from bench.peers.serve import NUM_WORKERS, collate, converted, serve

SHUFFLE_ROWS = 10_000


def convert(folder: Path, case: Case, files: Sequence[Path]) -> None:
    """Ray's own files: a tensor is a column of its tensor type, which is read without a look at any value."""
    fields = [case.schema[name] for name in case.columns if case.schema[name].is_tensor]

    def to_tensors(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for field in fields:
            values = np.frombuffer(b"".join(columns[field.name]), field.dtype)
            columns[field.name] = values.reshape(-1, *field.shape)
        return columns

    rows = ray.data.read_parquet(list(map(str, files)), columns=case.columns)
    rows.map_batches(to_tensors, batch_size=4096).write_parquet(str(folder))


def prepare(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    ray.init(num_cpus=NUM_WORKERS, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    folder = converted(out / "ray", lambda folder: convert(folder, case, files))
    parquet = sorted(map(str, folder.glob("*.parquet")))
    varying = [name for name in case.columns if case.schema[name].is_varying]

    def to_batch(columns: dict[str, np.ndarray]) -> Batch:
        return {name: collate(case, name, columns[name]) for name in case.columns}

    def epoch(number: int) -> Iterator[Batch]:
        rows = ray.data.read_parquet(parquet, shuffle="files")
        yield from rows.iter_torch_batches(
            batch_size=BATCH_ROWS,
            local_shuffle_buffer_size=SHUFFLE_ROWS,
            local_shuffle_seed=number,
            prefetch_batches=NUM_WORKERS,
            collate_fn=to_batch if varying else None,
        )

    return epoch


if __name__ == "__main__":
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    serve({"ray": prepare}, ["ray"])
