"""Notices a loss that is not finite, without making the host wait for the device, and keeps the keys of its rows.

The loss of a step is that of all ranks' rows: all ranks notice at the same step. On a GPU losses travel to the host
while the next steps run, and are looked at when these are done. Which rows a step had follows from the plan.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from penstock import store
from penstock.errors import RunError
from train import distributed
from train.distributed import World
from train.feed import Feed

EVERY = 50  # steps between two looks
FILE = "nonfinite.json"


class Losses:
    """The losses of the steps that were not looked at yet."""

    def __init__(self, feed: Feed, run_folder: Path, world: World) -> None:
        self._feed, self._run_folder, self._world = feed, run_folder, world
        self._steps: list[int] = []
        self._losses: list[Tensor] = []  # each (2,), the loss of all rows and their weight, on the device
        self._sent: tuple[list[int], Tensor, torch.cuda.Event | None] | None = None

    def add(self, step: int, loss: Tensor) -> None:
        """The loss of a step, from 0. Once in EVERY steps those that are known by now are looked at.

        Raises: RunError, in all ranks, where one was not finite.
        """
        self._steps.append(step)
        self._losses.append(loss)
        if len(self._steps) < EVERY:
            return
        self._look()
        self._send()
        if not loss.is_cuda:
            self._look()

    def check(self) -> None:
        """Waits for the device, and looks at all. Raises: as `add`."""
        self._look()
        self._send()
        self._look()

    def _send(self) -> None:
        if self._losses:
            losses = torch.stack(self._losses)
            here = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=losses.is_cuda)
            here.copy_(losses, non_blocking=True)
            self._sent = self._steps, here, torch.cuda.current_stream().record_event() if losses.is_cuda else None
            self._steps, self._losses = [], []

    def _look(self) -> None:
        if self._sent is None:
            return
        steps, losses, copied = self._sent
        self._sent = None
        if copied is not None:
            copied.synchronize()
        for step, is_finite in zip(steps, losses.isfinite().all(dim=1).tolist(), strict=True):
            if not is_finite:
                with distributed.together(self._world):
                    if self._world.rank == 0:
                        stop(step, self._feed, self._run_folder)


def stop(step: int, feed: Feed, run_folder: Path) -> NoReturn:
    """Keeps the keys of the rows of a step (from 0), and of the one before, whose gradient may be the cause.

    Raises: RunError, always.
    """
    steps = []
    for number in range(max(step - 1, 0), step + 1):
        epoch, batch = divmod(number, len(feed))
        steps.append({"step": number + 1, "epoch": epoch + 1, "keys": feed.keys(epoch, batch)})
    store.replace(run_folder / FILE, json.dumps({"steps": steps}, indent=1).encode() + b"\n")
    rows = "the keys of its rows and of those of the step before" if steps[-1]["keys"] else "its place in the run"
    raise RunError(
        f"{run_folder}: the loss was not finite at step {step + 1:,}; {rows} are in {FILE}: look at these rows, lower "
        f"optimizer.lr, or set clip_grad_norm. The newest checkpoint is from before"
    )
