"""Shuffling tensors that already lie in memory: what a feed from disk is held against.

index_select: a new permutation each epoch, one `index_select` for each batch and column.
dataloader: torch's DataLoader over a TensorDataset. With `batch_size=None` and a BatchSampler a batch is one look-up
of 1,024 places, not 1,024 look-ups; source: docs of torch.utils.data, "Disable automatic batching".
stateful_dataloader: torchdata's, in the same way; source: its README, a drop-in for DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from bench.cases import Case
from bench.clock import BATCH_ROWS, Batch, Epoch
from bench.peers.serve import read_columns, serve


def read_whole(case: Case, files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """All rows: field -> (N, *shape)."""
    parts = list(read_columns(case, files))
    return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in case.columns}


def index_select(case: Case, files: Sequence[Path], _out: Path) -> Epoch:
    columns = read_whole(case, files)
    num_rows = len(columns[case.columns[0]])

    def epoch(_number: int) -> Iterator[Batch]:
        for rows in torch.randperm(num_rows).split(BATCH_ROWS):
            yield {name: values.index_select(0, rows) for name, values in columns.items()}

    return epoch


def loader(case: Case, files: Sequence[Path], loader_class: type[DataLoader[Any]]) -> Epoch:
    rows = TensorDataset(*read_whole(case, files).values())
    # Worker processes would pickle every batch to hand on what lies in memory already: slower, so none.
    batches = loader_class(
        rows, sampler=BatchSampler(RandomSampler(rows), BATCH_ROWS, drop_last=False), batch_size=None
    )

    def epoch(_number: int) -> Iterator[Batch]:
        for batch in batches:
            yield dict(zip(case.columns, batch, strict=True))

    return epoch


def dataloader(case: Case, files: Sequence[Path], _out: Path) -> Epoch:
    return loader(case, files, DataLoader)


def stateful_dataloader(case: Case, files: Sequence[Path], _out: Path) -> Epoch:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return loader(case, files, StatefulDataLoader)


if __name__ == "__main__":
    serve(
        {"index_select": index_select, "dataloader": dataloader, "stateful_dataloader": stateful_dataloader}, ["torch"]
    )
