"""The rows of a dataset version's split as epochs of batches, for one rank."""

from __future__ import annotations

import os
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock import card as cards
from penstock import manifest, store
from penstock.card import Card
from penstock.errors import DatasetError, RunError
from train.feed.blocks import BlockReader
from train.feed.disk_cache import DiskCache
from train.feed.fetch import Ahead
from train.feed.gather import Buffers
from train.feed.petastorm_reader import Batch, PlannedReader
from train.feed.plan import Plan
from train.feed.row_groups import RowGroups, Verify
from train.feed.timing import Timings

MOST_LANES = 32  # if nobody says how many: more mix better, where rows lie sorted, and cost time
CACHE_BYTES = 10 * 10**9
FETCH_THREADS = 16


class Feed:
    """Batches of one split: `dict` of field name -> `(B, *shape)` tensor, `_label` and `_weight`.

    Lists are padded with zeros to the longest of their batch, their lengths are in `_<field>_length`; strings and bytes
    are Python lists, pictures and sounds that vary in size lists of tensors.

    `split` may join several, as "train+val" does for a last fit. `shuffle=False` gives file order, for evaluation
    and prediction. A batch is drawn from as many row groups as there are `lanes`; the default is the largest divisor
    of the batch up to 32. `columns` reads a part of the fields; the default is all but the key. `verify` checks the
    bytes against the manifest the `first` time that they are read, `always` or `never`.

    `for batch in feed` is one epoch, and each time the next one; `state_dict()` says where it stands.
    `feed.epoch(7)` is that epoch, whatever came before.

    Raises: DatasetError for a dataset that is missing or damaged, when opened or, for a file, when first read;
    RunError for lanes, ranks or threads that cannot be.
    """

    def __init__(
        self,
        dataset_url: str,
        split: str = "train",
        *,
        global_batch_size: int,
        lanes: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] | None = None,
        version: str | None = None,
        num_workers: int = 2,
        verify: Verify = "first",
        cache: str | Path | None = None,
        cache_bytes: int = CACHE_BYTES,
        fetch_threads: int = FETCH_THREADS,
    ) -> None:
        self.url, self.split = dataset_url, split
        self.rank, self.world_size, self.num_workers = rank, world_size, num_workers
        if num_workers < 1:
            raise RunError(f"expected 1 or more threads for the feed (num_workers), found {num_workers}")
        self.card: Card = cards.load(dataset_url, version)
        schema, splits = self.card.schema, split.split("+")
        if missing := [name for name in splits if name not in self.card.splits]:
            raise DatasetError(
                f"{dataset_url}: no split {missing[0]!r}; there are {', '.join(self.card.splits) or 'none'}"
            )
        self.columns = list(columns) if columns is not None else [n for n in schema.names if n != schema.key]
        if unknown := [name for name in self.columns if name not in schema.names]:
            raise DatasetError(f"{dataset_url}: no field {unknown[0]!r}; there are {', '.join(schema.names)}")
        if lanes is None:
            lanes = max(n for n in range(1, MOST_LANES + 1) if global_batch_size % n == 0)
        if not shuffle:  # each rank has a range in file order, whatever their number
            lanes, global_batch_size = world_size, max(1, global_batch_size // world_size) * world_size
        self._planned: dict[str, Any] = {
            "global_batch_size": global_batch_size,
            "lanes": lanes,
            "seed": seed,
            "shuffle": shuffle,
        }
        self._verify: Verify = verify
        self._cache = DiskCache(Path(cache), cache_bytes) if cache is not None else None
        self._fetch_threads = fetch_threads
        Plan(np.zeros(1, np.int64), **self._planned).pieces(0, 1, rank, world_size)  # says what does not fit together
        self._next = self._at = (0, 0)  # epoch and batch at which the next pass begins, and at which this one is
        self._open()
        expected, found = sum(self.card.splits[name].rows for name in splits), self.num_rows
        if expected != found:
            raise DatasetError(
                f"{dataset_url}: split {split!r}: the card says {expected:,} rows, the manifest {found:,}"
            )

    def _open(self) -> None:
        self._pid = os.getpid()
        self.timings = Timings()
        self._fetched: dict[tuple[int, int], Ahead] = {}  # for the pass that begins at this epoch and batch
        self._buffers = Buffers(pinned=torch.cuda.is_available())
        self._row_groups = RowGroups(
            manifest.read(self.url, self.card),
            self.split.split("+"),
            self.card.schema,
            self.columns,
            self.timings,
            self._verify,
            self._num_kept,
            self._cache,
            self.card.manifest.sha256[:16],  # by its checksums a manifest stands for the content of all files
        )

    def __getstate__(self) -> dict[str, Any]:
        opened = ("timings", "_fetched", "_buffers", "_row_groups")
        return {name: value for name, value in vars(self).items() if name not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __repr__(self) -> str:
        where, version = store.shown(store.absolute(self.url)), self.card.version
        return f"Feed({where!r}, {self.split!r}, version {version}, {self.num_rows:,} rows, {len(self)} batches)"

    def __len__(self) -> int:
        """Batches of an epoch: the same for every rank."""
        return self.plan(0).num_batches

    @property
    def num_rows(self) -> int:
        return int(self._row_groups.num_rows.sum())

    @property
    def _num_kept(self) -> int:
        """Row groups that are kept decoded: the one that each lane is in and the one that follows, for each thread."""
        return 2 * (int(self._planned["lanes"]) + self.num_workers)

    def plan(self, epoch: int) -> Plan:
        return Plan(self._row_groups.num_rows, epoch=epoch, buckets=self._row_groups.buckets, **self._planned)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._next
        self._next, self._at = (epoch + 1, 0), (epoch, first)
        for number, batch in enumerate(self.epoch(epoch, first), first + 1):
            self._at = (epoch, number)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where `for batch in feed` stands, for JSON: the same for every rank and, shuffled, for any number of them."""
        epoch, batch = self._at if self._at[1] < len(self) else (self._at[0] + 1, 0)
        return {"version": self.card.version, "split": self.split, **self._planned, "epoch": epoch, "batch": batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next `for batch in feed` goes on there. Raises: DatasetError for the position of another feed."""
        mine = self.state_dict()
        differs = [
            f"{name} is {mine[name]!r} here and {state.get(name)!r} there"
            for name in mine
            if name not in ("epoch", "batch") and mine[name] != state.get(name)
        ]
        if differs:
            raise DatasetError(f"{self!r}: the position is of another feed: {'; '.join(differs)}")
        self._next = self._at = (int(state["epoch"]), int(state["batch"]))

    def epoch(self, epoch: int = 0, first_batch: int = 0) -> Generator[Batch]:
        """This rank's part of every global batch of an epoch, from `first_batch` on."""
        if os.getpid() != self._pid:  # forked: another thread may have held a lock, which nobody opens here
            self._open()
        reader = self._reader(epoch, fetched := self._take_fetched(epoch, first_batch))
        with (
            PlannedReader(
                self.columns, reader.blocks(first_batch), reader.read, self.num_workers, 2 * self.num_workers
            ) as ahead,
            ExitStack() as stack,
        ):
            if fetched is not None:
                stack.callback(fetched.close)  # before the reader ends, whose threads may be waiting for bytes
            while True:
                with self.timings("wait"):
                    batches = next(ahead, None)
                if batches is None:
                    break
                yield from batches
            if fetched is not None and self._planned["shuffle"]:
                stack.pop_all()
                fetched.rest()
                self._fetched[epoch + 1, 0] = fetched

    def keys(self, epoch: int, batch: int) -> list[Any]:
        """The keys of all ranks' rows of a global batch; [] where the rows have none."""
        key = self.card.schema.key
        if key is None:
            return []
        whole = Feed.__new__(Feed)  # of one rank, which has the lanes of all
        whole.__setstate__({**self.__getstate__(), "columns": [key], "rank": 0, "world_size": 1, "num_workers": 1})
        batches = whole.epoch(epoch, batch)
        keys = next(batches)[key]
        batches.close()
        return keys if isinstance(keys, list) else list(keys.tolist())

    def _reader(self, epoch: int, fetched: Ahead | None = None) -> BlockReader:
        return BlockReader(
            self.plan(epoch),
            self._row_groups,
            [self.card.schema[name] for name in self.columns],
            self.card.schema.label,
            self.rank,
            self.world_size,
            self._num_kept,
            self._buffers,
            self.timings,
            fetched,
        )

    def _take_fetched(self, epoch: int, first_batch: int) -> Ahead | None:
        """What fetches row groups for a pass, if they are not local: it may have begun when the epoch before ended."""
        if self._row_groups.is_local:
            return None
        kept = self._fetched.pop((epoch, first_batch), None)
        while self._fetched:  # of a pass that did not come
            self._fetched.popitem()[1].close()
        needs = self._needs(epoch, first_batch)
        return kept or Ahead(self._row_groups.load, needs, self._fetch_threads, self._fetch_threads)

    def _needs(self, epoch: int, first_batch: int) -> Iterator[tuple[Hashable, list[int]]]:
        """The row groups of an epoch's blocks and, as shuffled passes follow each other, those of the next epochs."""
        yield from self._reader(epoch).needs(first_batch)
        while self._planned["shuffle"] and len(self):
            epoch += 1
            yield from self._reader(epoch).needs(0)
