"""Petastorm's `Reader` on current pyarrow, fed by the plan: its protocol, our worker and our ordered pool.

Stock Petastorm lists the directory, unpickles `_common_metadata`, and hands row groups to threads that may end
before the last one is out. Here the manifest answers what the Reader asks of a dataset, a work item is a block
of batches, and results come in the order of the items, so no row can be lost or overtake another.
"""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import pyarrow.parquet as pq

from penstock.errors import RunError
from train.feed.gather import one_core_each


@contextmanager
def _legacy_pyarrow_modules() -> Iterator[None]:
    """Petastorm 0.13.1 imports two modules that pyarrow no longer has, and uses nothing of them here."""
    stubs = {"pyarrow.filesystem": "LocalFileSystem", "pyarrow.hdfs": "HadoopFileSystem"}
    for name, class_name in stubs.items():
        module = types.ModuleType(name)
        setattr(module, class_name, type(class_name, (), {}))
        sys.modules[name] = module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in stubs:
            del sys.modules[name]


with _legacy_pyarrow_modules():
    from petastorm import reader as petastorm
    from petastorm.unischema import Unischema, UnischemaField
    from petastorm.workers_pool import EmptyResultError
    from petastorm.workers_pool.worker_base import WorkerBase

Batch = dict[str, Any]
ReadBlock = Callable[[range], list[Batch]]


class PlannedDataset:
    """Stands where Petastorm has a directory: answers from the card, opens nothing."""

    partitions = metadata = common_metadata = None

    def __init__(self, columns: list[str], read_block: ReadBlock) -> None:
        self.schema = Unischema("planned", [UnischemaField(name, object, (), None, False) for name in columns])
        self.read_block = read_block


def _answer(stock: Callable[..., Any], ours: Callable[[PlannedDataset], Any]) -> Callable[..., Any]:
    def answer(dataset: Any, *arguments: Any, **keywords: Any) -> Any:
        return ours(dataset) if isinstance(dataset, PlannedDataset) else stock(dataset, *arguments, **keywords)

    return answer


# The Reader finds its dataset through these three names; every other dataset gets the stock answer.
petastorm.pq = types.SimpleNamespace(ParquetDataset=_answer(pq.ParquetDataset, lambda dataset: dataset))
petastorm.infer_or_load_unischema = _answer(petastorm.infer_or_load_unischema, lambda dataset: dataset.schema)
petastorm.dataset_metadata.load_row_groups = _answer(petastorm.dataset_metadata.load_row_groups, lambda dataset: [None])


class OrderedPool:
    """Threads that work ahead by `ahead` items at most, and give results in the order of the items."""

    diagnostics: ClassVar[dict[str, Any]] = {}  # part of the protocol of Petastorm's pools

    def __init__(self, num_workers: int, ahead: int) -> None:
        self.workers_count = num_workers
        self._ahead = ahead
        self._pid = os.getpid()
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="feed", initializer=one_core_each)
        self._pending: deque[Future[list[Batch]]] = deque()

    def start(self, worker_class: Any, arguments: tuple[Any, ...], ventilator: Iterator[range]) -> None:
        self._process = worker_class(0, None, arguments).process
        self._items = ventilator
        try:
            for _ in range(self._ahead):
                self._submit()
        except BaseException:  # Ctrl-C after a thread's start, before the pool has noted it: Python would wait for it
            self.stop()
            raise

    def _submit(self) -> None:
        if (item := next(self._items, None)) is not None:
            self._pending.append(self._threads.submit(self._process, item))

    def get_results(self) -> list[Batch]:
        """The next block. Raises: what the worker raised, or EmptyResultError after the last one."""
        if os.getpid() != self._pid:  # the threads are in the process that was forked: one would wait for ever
            raise RunError("this pass over a feed was begun in another process; begin one here, with feed.epoch(…)")
        if not self._pending:
            raise EmptyResultError
        batches = self._pending.popleft().result()
        self._submit()
        return batches

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        self._threads.shutdown()


class BlockWorker(WorkerBase):  # type: ignore[misc]
    """Reads one block. Petastorm hands it the dataset as the second of its arguments."""

    def process(self, block: range) -> list[Batch]:
        dataset: PlannedDataset = self.args[1]
        return dataset.read_block(block)

    @staticmethod
    def new_results_queue_reader() -> _BlockResults:
        return _BlockResults()


class _BlockResults:
    batched_output = True

    def read_next(self, pool: OrderedPool, _schema: Unischema, _ngram: None) -> list[Batch]:
        try:
            return pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class PlannedReader(petastorm.Reader):  # type: ignore[misc]
    """Iterates over `blocks` of batches, read ahead by threads. A context manager, as Petastorm's is."""

    def __init__(
        self, columns: list[str], blocks: Iterator[range], read_block: ReadBlock, num_workers: int, ahead: int
    ) -> None:
        self._blocks = blocks
        pool = OrderedPool(num_workers, ahead)
        super().__init__(
            None,
            PlannedDataset(columns, read_block),
            worker_class=BlockWorker,
            reader_pool=pool,
            is_batched_reader=True,
        )

    def _create_ventilator(self, *_: Any) -> Iterator[range]:
        return self._blocks

    def cleanup_cache(self) -> None:
        """Nothing to clean; Petastorm's prints a line at every exit."""
