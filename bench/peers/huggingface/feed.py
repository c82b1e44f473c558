"""Hugging Face datasets, saved as Arrow files: map-style, and streamed through a shuffling buffer of 10,000 rows.

Both in Arrow format, which is many times as fast as the torch format (that one makes every integer int64), with a
fixed-size list for a tensor. map: a BatchSampler and `batch_size=None`, so that a batch is one look-up; workers pay
only where images are decoded. streaming: shards that two workers share.
Source: datasets' docs, "Use with PyTorch", "Use with PyArrow" and "Differences between Dataset and IterableDataset".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, load_from_disk
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from bench.cases import Case
from bench.clock import BATCH_ROWS, Batch, Epoch
from bench.peers.serve import NUM_WORKERS, converted, from_arrow, serve, to_arrow

SHUFFLE_ROWS = 10_000
NUM_SHARDS = 8


def load(case: Case, files: Sequence[Path], out: Path) -> Dataset:
    def convert(folder: Path) -> None:
        Dataset(pa.Table.from_batches(to_arrow(case, files))).save_to_disk(folder, num_shards=NUM_SHARDS)

    return load_from_disk(converted(out / "huggingface", convert)).with_format("arrow")


def mapped(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    rows = load(case, files, out)
    num_workers = NUM_WORKERS if any(case.schema[name].is_encoded for name in case.columns) else 0
    loader = DataLoader(
        rows,
        sampler=BatchSampler(RandomSampler(rows), BATCH_ROWS, drop_last=False),
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=partial(from_arrow, case),
    )
    return lambda _number: loader


def join(case: Case, rows: Sequence[pa.Table]) -> Batch:
    return from_arrow(case, pa.concat_tables(rows))


def streaming(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    rows = load(case, files, out).to_iterable_dataset(num_shards=NUM_SHARDS).shuffle(buffer_size=SHUFFLE_ROWS)
    loader = DataLoader(
        rows, batch_size=BATCH_ROWS, num_workers=NUM_WORKERS, persistent_workers=True, collate_fn=partial(join, case)
    )

    def epoch(number: int) -> Iterator[Batch]:
        rows.set_epoch(number)
        yield from loader

    return epoch


if __name__ == "__main__":
    serve({"map": mapped, "streaming": streaming}, ["datasets"])
