"""What TensorBoard shows of a run: losses and learning rates of single steps, and the figures of its epochs.

step/loss step/lr                       of at most NUM_SHOWN steps; those that a kill was faster than are missing
train/… val/… speed/rows_per_s speed/data_stall     of each epoch, at its last step
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from train.observe.events import open_events, write_scalars

NUM_SHOWN = 1000  # as many as a chart has points


class Charts:
    """The event file of one start of a run, which goes from `first_step` to `num_steps`."""

    def __init__(self, run_folder: Path, first_step: int, num_steps: int) -> None:
        self._file = open_events(run_folder / "tensorboard", first_step)
        self._every = -(-num_steps // NUM_SHOWN)
        self._coming: deque[tuple[int, float, Tensor, torch.cuda.Event | None]] = deque()

    def step(self, step: int, lr: float, sums: Tensor) -> None:
        """After `step` steps; `sums`: (2,) loss and weight of the last one's rows, on the device, which goes on."""
        if step % self._every:
            return
        copied = None
        if sums.is_cuda:
            sums = torch.empty(2, dtype=sums.dtype, pin_memory=True).copy_(sums, non_blocking=True)
            copied = torch.cuda.current_stream().record_event()
        self._coming.append((step, lr, sums, copied))
        while self._coming and _has_come(self._coming[0][-1]):
            self._write_next()

    def epoch(self, step: int, metrics: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """`metrics` as in metrics.jsonl, `timing` as in timings.jsonl."""
        shown = {name.replace("_", "/", 1): value for name, value in metrics.items() if name not in ("epoch", "step")}
        shown |= {f"speed/{name}": timing[name] for name in ("rows_per_s", "data_stall")}
        write_scalars(self._file, step, shown)

    def close(self) -> None:
        while self._coming:
            if (event := self._coming[0][-1]) is not None:
                event.synchronize()
            self._write_next()
        self._file.close()

    def _write_next(self) -> None:
        step, lr, sums, _ = self._coming.popleft()
        loss, weight = sums.tolist()
        write_scalars(self._file, step, {"step/loss": loss / max(weight, 1e-12), "step/lr": lr})


def _has_come(copied: torch.cuda.Event | None) -> bool:
    return copied is None or bool(copied.query())  # type: ignore[no-untyped-call]
