"""The plan: which rows make global batch b of an epoch, as a pure function that can be checked by hand.

    groups = the split's row groups, permuted by (seed, epoch)
    rows   = groups laid end to end, the rows inside each permuted by (seed, epoch, group): N rows
    lane l = rows[N * l // L : N * (l + 1) // L]             for each of the L lanes
    batch b takes rows b * q to (b + 1) * q of every lane     where q = global batch size / L, lane after lane

Rank r of W serves the lanes l with l % W == r, so the rows of a global batch do not depend on W, for any W that
divides L. Every row is in one lane at one place: it comes exactly once per epoch. Lanes differ by one row at
most: every rank makes ceil(ceil(N / L) / q) steps, and only the last batch is short. A position is the number of
a batch: seeking there computes it, and replays nothing.

Where row groups are of several buckets (of the length of their lists), this is so for the row groups of each bucket,
and all batches come in the order of a permutation. A batch is of one bucket; of each bucket the last one may be short.

Unshuffled, all permutations are the identity and one lane per rank gives each rank a range in file order; of buckets,
a range of each run of row groups of one bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.digest import U64, splitmix64
from penstock.errors import RunError

I64 = npt.NDArray[np.int64]


class Piece(NamedTuple):
    """Rows of one row group that follow each other in a lane: places `start` to `stop` of its permuted rows."""

    group: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Plan:
    """One epoch of one split. `rows_per_group`: (num_groups,) rows of each row group, in file order.

    `buckets`: (num_groups,) the bucket of each row group; None where there are none.
    """

    rows_per_group: I64
    global_batch_size: int
    lanes: int
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    buckets: I64 | None = None

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.global_batch_size < 1 or self.global_batch_size % self.lanes:
            raise RunError(
                f"expected lanes that divide the global batch size, found {self.lanes} lanes and a batch of "
                f"{self.global_batch_size}; choose others"
            )

    @cached_property
    def num_rows(self) -> int:
        return int(self.rows_per_group.sum())

    @property
    def num_batches(self) -> int:
        return int(self._first_batch[-1])

    @property
    def in_order(self) -> bool:
        """Whether batches that follow each other have rows that do."""
        return len(self._first_batch) <= 2

    @cached_property
    def _parts(self) -> I64 | None:
        """(num_groups,) which groups batches are made of together: a bucket's; unshuffled, those of a run."""
        if self.buckets is None or self.shuffle:
            return self.buckets
        return np.cumsum(np.diff(self.buckets, prepend=self.buckets[:1]) != 0)

    @cached_property
    def groups(self) -> I64:
        """(num_groups,) the order in which row groups come, those of a part behind each other."""
        n = len(self.rows_per_group)
        order = permutation(n, self.seed, self.epoch) if self.shuffle else np.arange(n)
        return order if self._parts is None else order[np.argsort(self._parts[order], kind="stable")]

    @cached_property
    def _ends(self) -> I64:
        """(num_groups,) where each group of `groups` ends among the N rows."""
        return np.cumsum(self.rows_per_group[self.groups])

    @cached_property
    def _first_row(self) -> I64:
        """(parts + 1,) where each part with rows begins among the N rows, and N."""
        if self._parts is None:
            return np.array([0, self.num_rows])
        sizes = np.bincount(self._parts, self.rows_per_group).astype(np.int64)
        return np.cumsum([0, *sizes[sizes > 0]]) if sizes.any() else np.zeros(2, np.int64)

    @cached_property
    def _first_batch(self) -> I64:
        """(parts + 1,) the number of batches of all parts before, and of all."""
        longest_lane = -(-np.diff(self._first_row) // self.lanes)
        return np.cumsum([0, *(-(-longest_lane // (self.global_batch_size // self.lanes)))])

    @cached_property
    def _batches(self) -> I64:
        """(num_batches,) the order in which batches come."""
        if self.in_order or not self.shuffle:
            return np.arange(self.num_batches)
        return permutation(self.num_batches, self.seed, self.epoch, -1)

    def rows_of(self, group: int) -> I64:
        """(rows,) the order of the rows inside a row group."""
        n = int(self.rows_per_group[group])
        return permutation(n, self.seed, self.epoch, group) if self.shuffle else np.arange(n)

    def rows_before(self, batch: int) -> int:
        """How many rows all ranks have of the batches before one."""
        empty = np.diff(self._first_batch) * self.global_batch_size - np.diff(self._first_row)  # in a part's last batch
        is_over = np.isin(self._first_batch[1:] - 1, self._batches[:batch])
        return batch * self.global_batch_size - int(empty[is_over].sum())

    def places(self, batch: int, rank: int = 0, world_size: int = 1) -> I64:
        """(rows,) where each row of a rank's part of a batch is among the epoch's N rows."""
        starts, stops = self._ranges(batch, 1, rank, world_size)
        return np.concatenate([np.zeros(0, np.int64), *map(np.arange, starts, stops)])

    def pieces(self, first: int, count: int = 1, rank: int = 0, world_size: int = 1) -> list[Piece]:
        """The rows that `count` batches from `first` on have for one rank: all of its first lane, then of its second.

        [] where the rank has none left. Raises: RunError where the world size does not divide the lanes.
        """
        start, stop = self._ranges(first, count, rank, world_size)
        # The row groups that each lane's rows lie in, from the one of its first row to the one of its last.
        begin, end = (np.searchsorted(self._ends, row, side="right") for row in (start, stop - 1))
        place = np.concatenate([np.zeros(0, int), *(np.arange(b, e + 1) for b, e in zip(begin, end, strict=True))])
        lane_of = np.repeat(np.arange(len(start)), end - begin + 1)  # as `place`: (pieces,)
        group_stop = self._ends[place]
        group_start = group_stop - self.rows_per_group[self.groups[place]]
        starts = np.maximum(start[lane_of], group_start) - group_start
        stops = np.minimum(stop[lane_of], group_stop) - group_start
        found = zip(self.groups[place].tolist(), starts.tolist(), stops.tolist(), strict=True)
        return [Piece(*piece) for piece in found if piece[1] < piece[2]]

    def _ranges(self, first: int, count: int, rank: int, world_size: int) -> tuple[I64, I64]:
        """(lanes of the rank that have rows left,) each, among the N rows, where `count` batches start and stop."""
        check_ranks(self.lanes, world_size, rank)
        share = self.global_batch_size // self.lanes
        lane = np.arange(rank, self.lanes, world_size)
        part = 0
        if not self.in_order:
            assert count == 1
            number = int(self._batches[first])
            part = int(np.searchsorted(self._first_batch, number, side="right")) - 1
            first = number - int(self._first_batch[part])
        begin, num_rows = int(self._first_row[part]), int(np.diff(self._first_row)[part])
        lane_start, lane_stop = begin + num_rows * lane // self.lanes, begin + num_rows * (lane + 1) // self.lanes
        start = lane_start + first * share
        stop = np.minimum(start + count * share, lane_stop)
        return start[start < stop], stop[start < stop]


def check_ranks(lanes: int, world_size: int, rank: int = 0) -> None:
    """Raises: RunError where the lanes are not the same number for each rank."""
    if lanes % world_size or not 0 <= rank < world_size:
        fitting = [str(n) for n in range(1, lanes + 1) if lanes % n == 0]
        raise RunError(
            f"expected a world size that divides the {lanes} lanes, and a rank below it, found rank {rank} of "
            f"{world_size}; start {' or '.join(fitting)} ranks, or choose lanes that {world_size} divides"
        )


def permutation(n: int, *key: int) -> I64:
    """(n,) a permutation of 0 to n - 1 that depends on the key alone: the same on every machine, for ever.

    Each number is hashed with the key, and the numbers are sorted by the upper 32 bits of their hashes; of equal
    ones, which are rare, the smaller number comes first. Sorting 16 bits at a time, the lower half first, is a
    radix sort: three times as fast as comparing.
    """
    mixed: U64 = np.zeros(1, np.uint64)
    for part in key:
        mixed = splitmix64(mixed ^ splitmix64(np.array([part % 2**64], np.uint64)))
    numbers: U64 = np.arange(n, dtype=np.uint64)
    halves = (splitmix64(mixed + numbers) >> np.uint64(32)).astype("<u4").view("<u2")
    by_lower = np.argsort(halves[0::2], kind="stable")
    return by_lower[np.argsort(halves[1::2][by_lower], kind="stable")]
