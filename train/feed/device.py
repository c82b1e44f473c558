"""Brings batches to the device: through pinned memory, on a side stream, one batch ahead of the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from typing import Any

import torch

from train.feed.petastorm_reader import Batch
from train.feed.timing import Timings


def to_device(batches: Iterable[Batch], device: torch.device, timings: Timings) -> Generator[Batch]:
    """The same batches with their tensors on `device`; on a CPU they pass as they are."""
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    copies: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
    ahead: Batch | None = None
    for batch in batches:
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            begun.record()
            coming = {name: _sent(value, device) for name, value in batch.items()}
            done.record()
        copies.append((begun, done))
        while copies and copies[0][1].query():  # type: ignore[no-untyped-call]
            begun, done = copies.popleft()
            timings.add("copy", begun.elapsed_time(done) / 1e3)
        if ahead is not None:
            yield ahead
        # The step may use the batch once its copy is done; its memory must outlive the step's use of it.
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for value in coming.values():
            for tensor in value if isinstance(value, list) else [value]:
                if isinstance(tensor, torch.Tensor):
                    tensor.record_stream(current)
        ahead = coming
    if ahead is not None:
        yield ahead


def _sent(value: Any, device: torch.device) -> Any:
    """The feed's memory is page-locked where there is a GPU: its copy is left to the side stream.

    Pictures that vary in size are a list of tensors.
    """
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [_sent(tensor, device) for tensor in value]
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
