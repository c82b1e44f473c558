"""How a run uses the cores and the memory of a CPU: as many threads as a step is worth, and memory that is kept.

Both follow from what a run is and not from how fast it was, since the number of threads decides the order of sums: a
run that goes on has the bits of one that was not interrupted. What the environment says goes before.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Operations of a step that are worth a thread of their own. Handing a part of each product to another thread takes
# longer than what it saves below this (`python -m bench.threads`).
FLOPS_PER_THREAD = 100e6
FLOPS_PER_PARAMETER = 100  # the optimizer's update takes about as long as so many operations of a product
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def num_threads(flops: float | None, num_parameters: int) -> int:
    """Threads for steps of so many operations, forward and backward; where these are not known, or the environment
    says how many (torchrun does), torch's number."""
    most = torch.get_num_threads()
    if flops is None or any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return most
    return min(most, max(1, int((flops + FLOPS_PER_PARAMETER * num_parameters) / FLOPS_PER_THREAD)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch's operations in this thread use `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Freed memory stays the process's own, for the next step to use: glibc gives blocks of more than some megabytes
    back to the kernel, which fills each of their pages with zeros when the next step asks for them.

    As torch does with a GPU's memory. Where there is no glibc nothing happens.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
