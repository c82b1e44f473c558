"""How long each stage of the feed took: fetch, decode, assemble, copy, and the trainer's wait.

Stages of several threads overlap, so that their sum may exceed the time that has passed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = {
    "fetch": "bytes from the storage, and their checksums",
    "decode": "by Arrow or an image decoder, for columns that cannot be read in place",
    "assemble": "rows into batches",
    "copy": "batches to the device",
    "wait": "the trainer, for a batch",
}


class Timings:
    """Seconds of each stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] += passed
