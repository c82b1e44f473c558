"""Petastorm's `Reader` on current pyarrow, fed by the plan: its protocol, our worker and our ordered pool.

Stock Petastorm lists the directory, unpickles `_common_metadata`, and hands row groups to threads that may end
before the last one is out. Here the manifest answers what the Reader asks of a dataset, a work item is the number
of a batch, and results come in the order of the items, so no row can be lost or overtake another.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import pyarrow.parquet as pq


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
ReadBatch = Callable[[int], Batch]


class PlannedDataset:
    """Stands where Petastorm has a directory: answers from the card, opens nothing."""

    partitions = metadata = common_metadata = None

    def __init__(self, columns: list[str], read_batch: ReadBatch) -> None:
        self.schema = Unischema("planned", [UnischemaField(name, object, (), None, False) for name in columns])
        self.read_batch = read_batch


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
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="feed")
        self._pending: deque[Future[Batch]] = deque()

    def start(self, worker_class: Any, arguments: tuple[Any, ...], ventilator: Iterator[int]) -> None:
        self._process = worker_class(0, None, arguments).process
        self._items = ventilator
        for _ in range(self._ahead):
            self._submit()

    def _submit(self) -> None:
        if (item := next(self._items, None)) is not None:
            self._pending.append(self._threads.submit(self._process, item))

    def get_results(self) -> Batch:
        """The next batch. Raises: what the worker raised, or EmptyResultError after the last one."""
        if not self._pending:
            raise EmptyResultError
        batch = self._pending.popleft().result()
        self._submit()
        return batch

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        self._threads.shutdown()


class BatchWorker(WorkerBase):  # type: ignore[misc]
    """Reads one batch. Petastorm hands it the dataset as the second of its arguments."""

    def process(self, number: int) -> Batch:
        dataset: PlannedDataset = self.args[1]
        return dataset.read_batch(number)

    @staticmethod
    def new_results_queue_reader() -> _BatchResults:
        return _BatchResults()


class _BatchResults:
    batched_output = True

    def read_next(self, pool: OrderedPool, _schema: Unischema, _ngram: None) -> Batch:
        try:
            return pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class PlannedReader(petastorm.Reader):  # type: ignore[misc]
    """Iterates over the batches `numbers`, read ahead by threads. A context manager, as Petastorm's is."""

    def __init__(self, columns: list[str], numbers: range, read_batch: ReadBatch, num_workers: int, ahead: int) -> None:
        self._numbers = numbers
        pool = OrderedPool(num_workers, ahead)
        super().__init__(
            None,
            PlannedDataset(columns, read_batch),
            worker_class=BatchWorker,
            reader_pool=pool,
            is_batched_reader=True,
        )

    def _create_ventilator(self, *_: Any) -> Iterator[int]:
        return iter(self._numbers)

    def cleanup_cache(self) -> None:
        """Nothing to clean; Petastorm's prints a line at every exit."""
