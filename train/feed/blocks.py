"""Assembles batches from row groups: what a worker thread of the feed does for one block of batches.

A block is a few batches that follow each other: one piece of work, large enough that Python costs little. Columns of
few bytes are shuffled a row group at a time, in the cache of a processor, and then lie in the order in which a lane
wants them. Wide values would be copied twice that way: they are gathered from where they lie straight into the batch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from penstock import encoded
from penstock.schema import Field
from train.feed.fetch import Ahead, Part
from train.feed.gather import Buffers, gather, gather_lists
from train.feed.petastorm_reader import Batch
from train.feed.plan import I64, Piece, Plan
from train.feed.row_groups import Cache, Lists, RowGroups
from train.feed.timing import Timings

WEIGHT = "_weight"  # (B,) float32 beside the fields: 1 for a row, 0 for padding
LABEL = "_label"  # the field that the schema names as label, under a name that is the same for all recipes
BLOCK_BYTES, BLOCK_BATCHES = 8 << 20, 64
LEAST_BLOCKS = 4  # of an epoch, so that the threads share a short one
LENGTH = "_{}_length"  # (B,) int64 beside a field of lists, which is padded with zeros to the batch's longest
VARYING_SIZE = 256  # elements that an axis of varying size is taken to have
NARROW_BYTES = 128  # values up to this width are shuffled with their row group


@dataclass(frozen=True)
class _Shuffled:
    """One row group in an epoch's order."""

    order: I64  # (rows,)
    columns: Mapping[str, Any]  # (rows, bytes of a value) uint8, or (rows,) objects


class BlockReader:
    """Reads blocks of one epoch, for one rank. Safe to use from several threads.

    `ahead` fetches files that are not local.
    """

    def __init__(
        self,
        plan: Plan,
        row_groups: RowGroups,
        fields: Sequence[Field],
        label: str | None,
        rank: int,
        world_size: int,
        kept: int,
        buffers: Buffers,
        timings: Timings,
        ahead: Ahead | None = None,
    ) -> None:
        self._plan, self._row_groups = plan, row_groups
        self._rank, self._world_size = rank, world_size
        self._label, self._buffers, self._timings = label, buffers, timings
        self._lists = [field for field in fields if field.is_list]
        self._wide = [field for field in fields if not field.is_varying and field.num_bytes > NARROW_BYTES]
        self._narrow = [field for field in fields if field not in self._lists and field not in self._wide]
        self._batch_bytes = max(1, sum(map(_weight, fields)) * plan.global_batch_size // world_size)
        self._shuffled = Cache(self._shuffle, kept)
        self._ahead = ahead

    def needs(self, first: int) -> Iterator[tuple[Hashable, list[int]]]:
        """The blocks from batch `first` on, and the row groups that each needs: for `ahead`."""
        for block in self.blocks(first):
            yield (self._plan.epoch, block), [self._row_groups.whole(piece.group) for piece in self._pieces(block)[0]]

    def blocks(self, first: int) -> Iterator[range]:
        """The epoch's batches from `first` on, in blocks. The last batch, which may be short, is a block of its own.

        So is each where buckets are mixed: those that follow each other are of other rows.
        """
        last, start = self._plan.num_batches - 1, first
        most = BLOCK_BATCHES if self._plan.in_order else 1
        size = max(1, min(most, BLOCK_BYTES // self._batch_bytes, last // LEAST_BLOCKS))
        while start < last:
            stop = min(start + min(size, 1 + start - first), last)  # 1, 2, 4, …: the first batch is there at once
            yield range(start, stop)
            start = stop
        if first <= last:
            yield range(last, last + 1)

    def read(self, block: range) -> list[Batch]:
        """This rank's part of each batch of the block."""
        pieces, weight = self._pieces(block)
        if self._ahead is None:
            return self._assemble(block, pieces, weight, self._row_groups.mapped([piece.group for piece in pieces]))
        with self._ahead.parts((self._plan.epoch, block)) as parts:
            return self._assemble(block, pieces, weight, parts)

    def _pieces(self, block: range) -> tuple[list[Piece], float]:
        """The rows of the block, and the weight of each."""
        if pieces := self._plan.pieces(block.start, len(block), self._rank, self._world_size):
            return pieces, 1.0
        # Nothing left for this rank: one row that counts for nothing keeps it in step.
        return [Piece(int(np.argmax(self._row_groups.num_rows > 0)), 0, 1)], 0.0

    def _assemble(self, block: range, pieces: list[Piece], weight: float, parts: list[Part]) -> list[Batch]:
        """`parts` has the bytes of the row group of each piece."""
        sizes = [piece.stop - piece.start for piece in pieces]
        num_rows, num_batches = sum(sizes), len(block)
        # A single batch is in order already, and the last one may have lanes of two lengths.
        lanes = self._plan.lanes // self._world_size if num_batches > 1 else 1

        def by_batch(rows: Any) -> Any:
            """(rows, …) lane after lane -> (batches, lanes, rows of a lane in a batch, …)"""
            return rows.reshape(lanes, num_batches, -1, *rows.shape[1:]).swapaxes(0, 1)

        groups = [piece.group for piece in pieces]
        shuffled = [self._shuffled.get(group, part) for group, part in zip(groups, parts, strict=True)]
        weights = self._buffers.take(num_rows * 4).view(torch.float32).view(num_batches, -1).fill_(weight)
        batches: dict[str, Any] = {WEIGHT: weights}
        with self._timings("assemble"):
            for field in self._narrow:
                chosen = [s.columns[field.name][p.start : p.stop] for s, p in zip(shuffled, pieces, strict=True)]
                rows = by_batch(np.concatenate(chosen))
                if field.is_varying:
                    batches[field.name] = rows.reshape(num_batches, -1).tolist()
                else:
                    raw, batches[field.name] = self._allocate(field, num_batches, num_rows)
                    raw.numpy().reshape(rows.shape)[...] = rows
        for field in self._narrow:
            if field.is_encoded:
                with self._timings("decode"):
                    batches[field.name] = [self._decode(values, field) for values in batches[field.name]]
        if self._wide or self._lists:
            orders = np.concatenate([s.order[p.start : p.stop] for s, p in zip(shuffled, pieces, strict=True)])
            order, piece_of = (by_batch(x).reshape(-1) for x in (orders, np.repeat(np.arange(len(pieces)), sizes)))
        for field in self._wide:
            values = self._row_groups.values(groups, parts, field.name)
            with self._timings("assemble"):
                raw, batches[field.name] = self._allocate(field, num_batches, num_rows)
                gather(values.starts[piece_of] + order * values.stride, field.num_bytes, raw)
        for field in self._lists:
            lists = [self._row_groups.lists(group, part, field.name) for group, part in zip(groups, parts, strict=True)]
            with self._timings("assemble"):
                starts, num_bytes, limits = _ranges(lists, order, piece_of)
                lengths = num_bytes // field.numpy_dtype.itemsize
                each = [x.reshape(num_batches, -1) for x in (starts, lengths, limits)]
                padded = [self._pad(field, *batch) for batch in zip(*each, strict=True)]
                batches[field.name], batches[LENGTH.format(field.name)] = zip(*padded, strict=True)
        if self._label in batches:
            batches[LABEL] = batches[self._label]
        self._timings.count(int(num_rows * weight), sum(map(_num_bytes, batches.values())))
        one_by_one = zip(*(x.unbind() if isinstance(x, torch.Tensor) else x for x in batches.values()), strict=True)
        return [dict(zip(batches, batch, strict=True)) for batch in one_by_one]

    def _shuffle(self, group: int, part: Part) -> _Shuffled:
        self._row_groups.check(group, part)
        order = self._plan.rows_of(group)
        columns = {field.name: self._row_groups.column(group, part, field.name) for field in self._narrow}
        with self._timings("assemble"):
            return _Shuffled(order, {name: values.take(order, axis=0) for name, values in columns.items()})

    def _decode(self, values: Sequence[bytes], field: Field) -> Any:
        """(B, *shape) where all shapes are the field's, else B tensors."""
        arrays = [encoded.decode(value, field) for value in values]
        if None in field.shape:
            return [torch.from_numpy(array.copy()) for array in arrays]
        raw = self._buffers.take(len(arrays) * arrays[0].nbytes)
        decoded = raw.view(_torch_dtype(field)).view(len(arrays), *field.shape)
        np.stack(arrays, out=decoded.numpy())
        return decoded

    def _pad(self, field: Field, starts: I64, lengths: I64, limits: I64) -> tuple[torch.Tensor, torch.Tensor]:
        """Lists that lie at these addresses -> (B, longest), (B,) lengths."""
        shape = (len(lengths), int(lengths.max()))
        padded = self._buffers.take(math.prod(shape) * field.numpy_dtype.itemsize).view(_torch_dtype(field)).view(shape)
        if shape[1]:
            gather_lists(starts, lengths, limits, padded)
        return padded, torch.from_numpy(lengths)

    def _allocate(self, field: Field, num_batches: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same memory twice: (rows, bytes of a value) uint8, and (batches, rows of a batch, *shape)."""
        raw = self._buffers.take(num_rows * field.num_bytes).view(num_rows, field.num_bytes)
        return raw, raw.view(-1).view(_torch_dtype(field)).view(num_batches, num_rows // num_batches, *field.shape)


def _ranges(lists: Sequence[Lists], order: I64, piece_of: I64) -> tuple[I64, I64, I64]:
    """For each row of a block, whose list is the `order`-th of `lists[piece_of]`: its address, its bytes, and the
    address where the memory of its row group ends."""
    offsets = np.concatenate([found.offsets for found in lists])
    firsts = np.cumsum([0, *(len(found.offsets) for found in lists[:-1])])
    addresses = np.array([found.address for found in lists])
    limits = addresses + np.array([found.offsets[-1] for found in lists])
    at = firsts[piece_of] + order
    return addresses[piece_of] + offsets[at], offsets[at + 1] - offsets[at], limits[piece_of]


@cache
def _torch_dtype(field: Field) -> torch.dtype:
    return torch.from_numpy(np.empty(0, field.numpy_dtype)).dtype


def _weight(field: Field) -> int:
    """About how many bytes a value is in a batch."""
    if not field.is_varying:
        return field.num_bytes
    if field.shape:
        return math.prod(size or VARYING_SIZE for size in field.shape) * field.numpy_dtype.itemsize
    return VARYING_SIZE


def _num_bytes(column: Any) -> int:
    if isinstance(column, torch.Tensor):
        return column.nbytes
    return len(column) if isinstance(column, bytes | str) else sum(map(_num_bytes, column))
