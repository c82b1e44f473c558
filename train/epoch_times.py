"""How long an epoch's steps took, and how long they stood still for data: each epoch's line in timings.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from train import distributed
from train.distributed import World
from train.feed import Feed


@dataclass(frozen=True)
class EpochTimes:
    """An epoch's steps on all ranks: how long they took, how long they waited for batches, what feeds did meanwhile."""

    epoch: int  # from 1
    step: int  # the run's steps at its end
    rows: int
    seconds: float
    wait_seconds: float  # mean over the ranks
    num_bytes: int
    stages: Mapping[str, float]  # train.feed.timing.STAGES -> seconds, summed over the threads of rank 0's feed

    @property
    def data_stall(self) -> float:
        """The share of the time in which the trainer stood still for data, 0 to 1."""
        return self.wait_seconds / max(self.seconds, 1e-9)


class Clock:
    """Takes the time of an epoch's steps, from when the run has done `first` steps."""

    def __init__(self, feed: Feed, first: int) -> None:
        self._feed, self._first, self._waited = feed, first, 0.0
        feed.timings.clear()
        self._started = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def stop(self, step: int, world: World) -> EpochTimes:
        """The times of the epoch that ends when the run has done `step` steps."""
        seconds = time.perf_counter() - self._started
        fed, num_batches = self._feed.timings, len(self._feed)
        epoch = -(-step // num_batches)
        plan, before = self._feed.plan(epoch - 1), (epoch - 1) * num_batches
        all_ranks = torch.tensor([self._waited, fed.num_bytes], dtype=torch.float64, device=world.device)
        waited, num_bytes = distributed.all_reduce(all_ranks, world).tolist()
        return EpochTimes(
            epoch=epoch,
            step=step,
            rows=plan.rows_before(step - before) - plan.rows_before(self._first - before),
            seconds=seconds,
            wait_seconds=waited / world.size,
            num_bytes=int(num_bytes),
            stages=dict(fed.seconds),
        )
