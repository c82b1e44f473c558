"""Lance: rows taken at random places, a batch at a time, some batches ahead in two threads (its own are native).

Its LanceDataset for torch shuffles no rows, and its SafeLanceDataset makes a Python object of every value, so batches
go from Arrow to tensors as LanceDataset makes them: a fixed-size list is a matrix.
Source: Lance's docs, "Random access" (`take`) and "PyTorch integration".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import torch

from bench.cases import Case
from bench.clock import BATCH_ROWS, Batch, Epoch
from bench.peers.serve import NUM_WORKERS, converted, from_arrow, serve, to_arrow

AHEAD = 2 * NUM_WORKERS


def convert(folder: Path, case: Case, files: Sequence[Path]) -> None:
    lance.write_dataset(pa.Table.from_batches(to_arrow(case, files)), str(folder / "rows.lance"))


def prepare(case: Case, files: Sequence[Path], out: Path) -> Epoch:
    folder = converted(out / "lance", lambda folder: convert(folder, case, files))
    rows = lance.dataset(str(folder / "rows.lance"))
    num_rows = rows.count_rows()
    threads = ThreadPoolExecutor(NUM_WORKERS)

    def read(places: np.ndarray) -> Batch:
        return from_arrow(case, rows.take(places, columns=case.columns))

    def epoch(_number: int) -> Iterator[Batch]:
        ahead: deque[Future[Batch]] = deque()
        for places in torch.randperm(num_rows).split(BATCH_ROWS):
            ahead.append(threads.submit(read, places.numpy()))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    return epoch


if __name__ == "__main__":
    serve({"lance": prepare}, ["pylance"])
