"""Ends a rank that can only wait: in a collective that another rank does not reach, or after its launcher has died.

A thread of each rank tells the launcher's store which step it is in, about once a second. Where a rank's own step has
lasted too long it looks who is behind, says so, and ends its process; the launcher then ends the others.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from uuid import uuid4

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from penstock import log
from penstock.errors import Preempted, StorageError
from train import distributed, status
from train.distributed import World
from train.preemption import Signals

SILENT = 5  # beats that a live rank does not miss
STORE_S = 10.0


class Watchdog:
    """Watches a rank while the context is open. With one rank and no launcher there is nothing to watch."""

    def __init__(self, world: World, timeout_s: float, run: str, signals: Signals) -> None:
        self._world, self._timeout_s, self._run, self._signals = world, timeout_s, run, signals
        self._step, self._moved = 0, time.monotonic()
        self._every_s = min(1.0, timeout_s / 10)
        self._heard: dict[int, tuple[str, float]] = {}  # rank -> its last beat, and when it came
        self._over = threading.Event()
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if world.size == 1:
            return
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*address, is_master=False, timeout=timedelta(seconds=STORE_S))
        self._store = PrefixStore(distributed.from_rank_0(uuid4().hex, world), store)
        self._store.set(f"who/{world.rank}", f"rank {world.rank} (process {os.getpid()} on {platform.node()})")
        self._beat(0)
        dist.barrier()  # from here on every rank has told who it is

    def reached(self, step: int) -> None:
        """The rank goes on: to be called more often than every `timeout_s` seconds."""
        self._step, self._moved = step, time.monotonic()

    def __enter__(self) -> Watchdog:
        self.reached(0)  # the wait for the other ranks' start is over
        if self._world.size > 1 or status.launch() is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Tells the others of an error. Where another rank had one first, this one's only follows from it."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._world.size == 1 or error is None or isinstance(error, Preempted | SystemExit):
            return
        what = f"rank {self._world.rank}: {type(error).__name__}: {error}"
        if isinstance(error, dist.DistBackendError) or "by peer" in str(error):  # of NCCL; of gloo, a RuntimeError
            self._end(f"rank {self._world.rank} ends, since a collective failed, as where another rank dies: {error}")
        first = self._store.compare_set("failed", "", what).decode()
        if first != what:
            self._tell(first)
            self._end(f"rank {self._world.rank} ends, since another has failed")

    def _watch(self) -> None:
        beats = 0
        while not self._over.wait(self._every_s):
            beats += 1
            if os.getppid() != self._parent:
                self._end(f"rank {self._world.rank} ends, since its launcher has died")
            if self._world.size > 1:
                try:
                    self._beat(beats)
                    self._look()
                except dist.DistError as error:
                    self._end(f"rank {self._world.rank} ends, since its launcher's store is gone ({error})")

    def _look(self) -> None:
        waited, asked_to_end = time.monotonic() - self._moved, self._signals.signum and not self._signals.is_over
        if self._store.check(["failed"]):
            self._tell(self._store.get("failed").decode())
            self._end(f"rank {self._world.rank} ends, since another has failed")
        if asked_to_end or waited > self._timeout_s - (SILENT + 1) * self._every_s:
            self._listen()
        if waited > self._timeout_s:
            self._end_stalled()
        if asked_to_end and self._silent():
            self._end(f"rank {self._world.rank} ends without a checkpoint, since another has died")

    def _beat(self, number: int) -> None:
        self._store.set(f"beat/{self._world.rank}", f"{self._step} {number}")

    def _listen(self) -> None:
        beats = self._store.multi_get([f"beat/{rank}" for rank in range(self._world.size)])
        for rank, beat in enumerate(beats):
            if rank not in self._heard or self._heard[rank][0] != beat.decode():
                self._heard[rank] = (beat.decode(), time.monotonic())

    def _silent(self) -> list[int]:
        now = time.monotonic()
        return [rank for rank, (_, at) in self._heard.items() if now - at > SILENT * self._every_s]

    def _end_stalled(self) -> None:
        """Names the ranks that are steps behind, or else those that are silent, or else that none is."""
        steps = {rank: int(beat.split()[0]) for rank, (beat, _) in self._heard.items()}
        furthest = max(steps.values())
        behind = [rank for rank, step in steps.items() if step < furthest]
        named = behind or self._silent()
        next_step = furthest if behind else furthest + 1
        who = ", ".join(who.decode() for who in self._store.multi_get([f"who/{rank}" for rank in named])) or "no rank"
        have = "have" if len(named) > 1 else "has"
        error = f"{who} {have} not reached step {next_step} for {self._timeout_s:g} s (--timeout)"
        if self._store.add("said", 1) == 1:
            try:
                status.write(self._run, "failed", error=error)
            finally:
                self._end(error, log.error)
        self._end(f"rank {self._world.rank} ends with it")

    def _tell(self, error: str) -> None:
        if self._world.rank == 0:
            with suppress(StorageError):  # this rank has its own end to come to
                status.write(self._run, "failed", error=error)

    def _end(self, what: str, say: Callable[[str], None] = log.info) -> None:
        try:
            say(what)  # which fails where nobody reads any more
        finally:
            os._exit(1)
