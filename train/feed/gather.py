"""Rows that lie anywhere in memory into one tensor, in one copy: mapped pages, fetched bytes and decoded columns alike.

A batch takes its rows from many row groups, so from many places. Python is too slow to copy them piece by piece, and
torch and numpy gather from one array only: so the memory from the first row to the last is looked at as one array in
which a row begins at every byte, and the rows' addresses are its indices. Only the rows that are asked for are touched.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import threadpoolctl
import torch

from train.feed.plan import I64

LARGEST_ARRAY = 2**62  # elements; numpy and torch count them in 64 bits
SMALLEST_KEPT = 1 << 16  # smaller buffers cost the allocator nothing


class Buffers:
    """Memory for batches, used again once nothing refers to the batch: fresh pages cost as much as filling them.

    Sizes are rounded up to powers of two, since batches of lists differ in theirs: untouched pages cost nothing.
    """

    def __init__(self, pinned: bool = False) -> None:
        self._pinned = pinned
        self._free: dict[int, list[Any]] = defaultdict(list)

    def take(self, num_bytes: int) -> torch.Tensor:
        """(num_bytes,) uint8, of any content; page-locked if the buffers are `pinned`."""
        if self._pinned or num_bytes < SMALLEST_KEPT:  # torch keeps page-locked memory itself
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned)
        size = 1 << (num_bytes - 1).bit_length()
        free = self._free[size]
        try:
            buffer = free.pop()
        except IndexError:
            buffer = np.empty(size, np.uint8)
        # The tensor and all that is made of its memory hold this view: it dies with the last of them.
        view = buffer[:num_bytes]
        weakref.finalize(view, free.append, buffer).atexit = False
        return torch.from_numpy(view)


def gather(addresses: I64, width: int, out: torch.Tensor) -> None:
    """Copies `width` bytes from each of the (n,) addresses into `out`, (n, width) uint8.

    The caller answers for the addresses: that all `width` bytes behind them are there, and stay there meanwhile.
    """
    first = int(addresses.min())
    rows = int(addresses.max()) - first + 1
    if rows * width >= LARGEST_ARRAY:  # rows so wide that a call for each costs nothing
        start = out.data_ptr()
        for i, address in enumerate(addresses.tolist()):
            ctypes.memmove(start + i * width, address, width)
        return
    everywhere = torch.from_numpy(np.asarray(_Memory(first, rows, width)))
    torch.index_select(everywhere, 0, torch.from_numpy(addresses - first), out=out)


class _Memory:
    """(rows, width) uint8 in which row i is the bytes from `address + i` on, for numpy to look at."""

    def __init__(self, address: int, rows: int, width: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (rows, width),
            "strides": (1, 1),
            "data": (address, False),
        }


def gather_lists(starts: I64, lengths: I64, limits: I64, out: torch.Tensor) -> None:
    """Copies the list of `lengths[i]` elements at address `starts[i]` into row i of `out`, (n, longest), and zeros
    behind it.

    All rows are copied at the full width and then cut. Where that would reach beyond `limits[i]`, the end of the
    memory that the list lies in, the list is copied by itself.
    """
    width = out.shape[1] * out.element_size()
    at_the_end = np.flatnonzero(starts + width > limits)
    elsewhere = starts.copy()
    elsewhere[at_the_end] = out.data_ptr()
    gather(elsewhere, width, out.view(torch.uint8))
    for i in at_the_end.tolist():
        ctypes.memmove(out.data_ptr() + i * width, int(starts[i]), int(lengths[i]) * out.element_size())
    bits = out.numpy().view(f"<i{out.element_size()}")  # what is cut off may be no number
    bits *= np.arange(out.shape[1], dtype=np.int32) < lengths.astype(np.int32)[:, None]


@cache
def _openmp() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController().select(user_api="openmp")  # looks at all libraries: 1.5 ms


def one_core_each() -> None:
    """Called in a worker thread: torch's operations run in it alone, as the workers are the parallelism."""
    torch.get_num_threads()  # else torch sets its own number at the thread's first operation
    _openmp().limit(limits=1)
