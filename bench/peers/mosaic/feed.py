"""MosaicML streaming: MDS shards, StreamingDataset with its own shuffle, a DataLoader with two workers.

Source: mosaicml-streaming's docs, "Dataset format", "Shuffling", and its README.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import streaming
from torch.utils.data import DataLoader

from bench.cases import Case
from bench.clock import BATCH_ROWS, Epoch
from bench.peers.serve import NUM_WORKERS, collate_rows, converted, read_rows, serve
from penstock.schema import Field


def encoding(field: Field) -> str:
    """MDS's name of a type: arrays of fixed shape carry none with each row."""
    if field.is_encoded:
        return "bytes"
    if field.is_list:
        return f"ndarray:{field.dtype}"
    return f"ndarray:{field.dtype}:{','.join(map(str, field.shape))}" if field.shape else field.dtype


def convert(folder: Path, case: Case, files: Sequence[Path]) -> None:
    columns = {name: encoding(case.schema[name]) for name in case.columns}
    with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
        for row in read_rows(case, files):
            writer.write(row)


def prepare(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    streaming.base.util.clean_stale_shared_memory()
    folder = converted(out / "mosaic", lambda folder: convert(folder, case, files))
    loader = DataLoader(
        streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH_ROWS),
        batch_size=BATCH_ROWS,
        num_workers=NUM_WORKERS,
        persistent_workers=True,
        collate_fn=partial(collate_rows, case),
    )
    return lambda _number: loader


if __name__ == "__main__":
    serve({"mosaic": prepare}, ["mosaicml-streaming"])
