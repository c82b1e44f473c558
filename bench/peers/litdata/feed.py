"""litdata: `optimize` writes chunks of 64 MB, StreamingDataset shuffles, StreamingDataLoader has two workers.

Source: litdata's README, "Optimize datasets" and "Stream the data while training".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from litdata import StreamingDataLoader, StreamingDataset, optimize

from bench.cases import Case
from bench.clock import BATCH_ROWS, Epoch
from bench.peers.serve import NUM_WORKERS, collate_rows, converted, read_rows, serve


def rows_of(file: Path, case: Case) -> Iterator[dict[str, Any]]:
    """Scalars as Python's, arrays and bytes as they are."""
    for row in read_rows(case, [file]):
        yield {name: value if case.schema[name].shape else value.item() for name, value in row.items()}


def convert(folder: Path, case: Case, files: Sequence[Path]) -> None:
    files = files
    optimize(partial(rows_of, case=case), files, str(folder), chunk_bytes="64MB", num_workers=NUM_WORKERS)


def prepare(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    folder = converted(out / "litdata", lambda folder: convert(folder, case, files))
    loader = StreamingDataLoader(
        StreamingDataset(str(folder), shuffle=True),
        batch_size=BATCH_ROWS,
        num_workers=NUM_WORKERS,
        persistent_workers=True,
        collate_fn=partial(collate_rows, case),
    )
    return lambda _number: loader


if __name__ == "__main__":
    serve({"litdata": prepare}, ["litdata"])
