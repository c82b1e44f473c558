"""The rows of a dataset version's split as epochs of batches, for one rank."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import torch

from penstock import card as cards
from penstock import manifest, store
from penstock.card import Card
from penstock.errors import DatasetError
from penstock.schema import Field
from train.feed.blocks import BlockReader, blocks
from train.feed.gather import Buffers
from train.feed.petastorm_reader import Batch, PlannedReader
from train.feed.plan import Plan
from train.feed.row_groups import RowGroups, Verify
from train.feed.timing import Timings

VARYING_SIZE = 256  # elements that an axis of varying size is taken to have


class Feed:
    """Batches of one split: `dict` of field name -> `(B, *shape)` tensor (strings: a list), `_label` and `_weight`.

    `split` may join several, as "train+val" does for a last fit. `shuffle=False` gives file order, for evaluation
    and prediction. `columns` reads a part of the fields.

    Raises: DatasetError for a dataset that is missing or damaged, when opened or, for a file, when first read.
    """

    def __init__(
        self,
        dataset_url: str,
        split: str = "train",
        *,
        global_batch_size: int,
        lanes: int = 8,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] | None = None,
        version: str | None = None,
        num_workers: int = 2,
        verify: Verify = "first",
    ) -> None:
        self.card: Card = cards.load(dataset_url, version)
        splits = split.split("+")
        if missing := [name for name in splits if name not in self.card.splits]:
            raise DatasetError(
                f"{dataset_url}: no split {missing[0]!r}; there are {', '.join(self.card.splits) or 'none'}"
            )
        schema = self.card.schema
        self.columns = list(columns) if columns is not None else [n for n in schema.names if n != schema.key]
        if unknown := [name for name in self.columns if name not in schema.names]:
            raise DatasetError(f"{dataset_url}: no field {unknown[0]!r}; there are {', '.join(schema.names)}")
        self.url, self.split = dataset_url, split
        self.rank, self.world_size = rank, world_size
        self._settings: dict[str, Any] = {"global_batch_size": global_batch_size, "seed": seed, "shuffle": shuffle}
        self._settings["lanes"] = lanes if shuffle else world_size
        self._num_workers = num_workers
        self._buffers = Buffers(pinned=torch.cuda.is_available())
        self.timings = Timings()
        self._fields = [schema[name] for name in self.columns]
        self._kept = 2 * (self._settings["lanes"] + num_workers)
        self._row_groups = RowGroups(
            manifest.read(dataset_url, self.card), splits, schema, self.timings, verify, self._kept
        )
        expected, found = sum(self.card.splits[name].rows for name in splits), self.num_rows
        if expected != found:
            raise DatasetError(
                f"{dataset_url}: split {split!r}: the card says {expected:,} rows, the manifest {found:,}"
            )

    def __repr__(self) -> str:
        where, version = store.shown(store.absolute(self.url)), self.card.version
        return f"Feed({where!r}, {self.split!r}, version {version}, {self.num_rows:,} rows, {len(self)} batches)"

    def __len__(self) -> int:
        """Batches of an epoch: the same for every rank."""
        return self.plan(0).num_batches

    @property
    def num_rows(self) -> int:
        return int(self._row_groups.num_rows.sum())

    def plan(self, epoch: int) -> Plan:
        return Plan(self._row_groups.num_rows, epoch=epoch, **self._settings)

    def epoch(self, epoch: int = 0, first_batch: int = 0) -> Generator[Batch]:
        """This rank's part of every global batch of an epoch, from `first_batch` on."""
        plan = self.plan(epoch)
        reader = BlockReader(
            plan,
            self._row_groups,
            self._fields,
            self.card.schema.label,
            self.rank,
            self.world_size,
            self._kept,
            self._buffers,
            self.timings,
        )
        batch_bytes = sum(map(_weight, self._fields)) * plan.global_batch_size // self.world_size
        work = blocks(first_batch, plan.num_batches, batch_bytes)
        with PlannedReader(self.columns, work, reader.read, self._num_workers, 2 * self._num_workers) as ahead:
            for batches in ahead:
                yield from batches


def _weight(field: Field) -> int:
    """About how many bytes a value is in a batch."""
    if not field.is_varying:
        return field.num_bytes
    if field.shape:
        return math.prod(size or VARYING_SIZE for size in field.shape) * field.numpy_dtype.itemsize
    return VARYING_SIZE
