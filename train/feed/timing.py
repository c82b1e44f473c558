"""What the feed did and how long each stage took: fetch, decode, assemble, copy, and the trainer's wait.

Stages of several threads overlap, so that their sum may exceed the time that has passed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STAGES = {
    "fetch": "bytes from the storage, and their check",
    "decode": "values that cannot be read in place",
    "assemble": "rows into batches",
    "copy": "batches to the device",
    "wait": "the trainer, for a batch",
}
MUCH = 0.1  # a data stall above this is worth a word


class Timings:
    """Seconds of each stage, summed over threads; the rows and bytes of the batches that were handed out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.num_rows = self.num_bytes = 0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] += seconds

    def count(self, num_rows: int, num_bytes: int) -> None:
        with self._lock:
            self.num_rows += num_rows
            self.num_bytes += num_bytes


def advice(seconds: Mapping[str, float], data_stall: float, num_workers: int) -> str | None:
    """Which stage holds the trainer back, and which setting to change; None where the data stall is small."""
    if data_stall <= MUCH:
        return None
    slowest = max(("fetch", "decode", "assemble", "copy"), key=lambda stage: seconds[stage])
    more_workers = (
        f"more threads (--num-workers, now {num_workers})"
        if num_workers < (os.cpu_count() or 1)
        else f"a machine with more cores (all {os.cpu_count()} are in use), or a larger model"
    )
    change = {
        "fetch": f"--cache DIR if the data is far, --verify never if it was checked, {more_workers}, or a faster disk",
        "decode": f"columns of fixed width, which are read in place, pictures of fewer pixels, or {more_workers}",
        "assemble": f"fewer or narrower columns, or {more_workers}",
        "copy": "narrower types, such as pictures as uint8, which the device converts",
    }[slowest]
    return f"Data stall {data_stall:.0%}: most of the feed's time goes to {slowest} ({STAGES[slowest]}); try {change}"
