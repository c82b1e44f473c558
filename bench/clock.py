"""The clock of bench.feed, the same for every system: whole epochs of batches, or a part of a slow one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bench.cases import LABEL, Case

BATCH_ROWS = 1024
AT_LEAST_S = 0.5  # a fast system reads more than one epoch
WARM_S = 2.0
TRIES = 5  # stock Petastorm loses all rows of an epoch now and then

Batch = Mapping[str, Any]  # field -> (B, *shape) torch tensor
Epoch = Callable[[int], Iterable[Batch]]  # the number of an epoch -> its batches


def measure(epoch: Epoch, numbers: Iterator[int], at_most_s: float) -> tuple[int, float]:
    """(rows, seconds) of reading: epochs until half a second is over, stopped at `at_most_s`."""
    rows, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < AT_LEAST_S:
        for batch in epoch(next(numbers)):
            rows += len(batch[LABEL])
            if (seconds := time.perf_counter() - start) >= at_most_s:
                return rows, seconds
    return rows, seconds


def warm_up(epoch: Epoch, numbers: Iterator[int], case: Case) -> None:
    """Reads for two seconds at most. Raises: ValueError where batches are not what all systems are to give."""
    first = next((batch for _ in range(TRIES) for batch in epoch(next(numbers))), None)
    if first is None:
        raise ValueError(f"no batch in {TRIES} epochs")
    check(first, case)
    measure(epoch, numbers, WARM_S)


def check(batch: Batch, case: Case) -> None:
    """A list's batch is as wide as its longest list."""
    for name in case.columns:
        field, found = case.schema[name], batch[name]
        expected = (BATCH_ROWS, found.shape[-1]) if field.is_list else (BATCH_ROWS, *field.shape)
        if str(found.dtype) != f"torch.{field.dtype}" or tuple(found.shape) != expected:
            raise ValueError(f"{name}: expected {field.dtype} {expected}, found {found.dtype} {tuple(found.shape)}")
