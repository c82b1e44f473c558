"""What steers a run beside its steps: when its state is saved, and when it stops: in all ranks before the same step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from penstock.errors import Preempted
from train.checkpoint import Checkpoints
from train.distributed import World
from train.mirror import Mirror
from train.preemption import Signals
from train.watchdog import Watchdog

GO, SAVE = 0, 1  # then SIGINT (2) and SIGTERM (15): the largest that a rank wishes is what all do


class Control:
    """`checkpoints` are rank 0's; the other ranks have None. So is `mirror`, where the run's folder is not local."""

    def __init__(
        self,
        world: World,
        signals: Signals,
        watchdog: Watchdog,
        checkpoints: Checkpoints | None,
        mirror: Mirror | None,
        checkpoint_s: float,
    ) -> None:
        self._signals, self._watchdog, self._checkpoints, self._mirror = signals, watchdog, checkpoints, mirror
        self._checkpoint_s, self._asked = checkpoint_s, time.monotonic()
        self._step, self._answer = 0, GO
        self._group: Any = dist.new_group(backend="gloo") if world.size > 1 else None
        self._wish: torch.Tensor | None = None
        self._message: Any = None

    def latest(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """What rank 0 goes on from. Raises: RunError, as Checkpoints.latest."""
        return None if self._checkpoints is None else self._checkpoints.latest(say)

    def best(self) -> dict[str, Any] | None:
        """The state of the best evaluation, of rank 0. Raises: RunError, as Checkpoints.best."""
        if self._checkpoints is None:
            return None
        self._checkpoints.wait()
        return self._checkpoints.best()

    def before(self, step: int) -> bool:
        """Whether to save the state now: before a step, of which `step` are done. `stop_if_asked` follows.

        Raises: StorageError where the checkpoint before could not be written; as Mirror.check.
        """
        self._watchdog.reached(step)
        self._step, wish = step, self._signals.signum
        if self._checkpoints is not None:
            self._checkpoints.check()
            if self._mirror is not None:
                self._mirror.check()
            if time.monotonic() - self._asked > self._checkpoint_s and not self._checkpoints.is_writing:
                self._asked, wish = time.monotonic(), max(wish, SAVE)
        self._answer = max(self._ask(wish), self._answer)
        return self._answer >= SAVE

    def save(self, step: int, state: Mapping[str, Any], best: bool = False) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save(step, state, best)
        if self._answer == SAVE:
            self._answer = GO

    def stop_if_asked(self) -> None:
        """Raises: Preempted, in all ranks, where one of them got a signal."""
        if self._answer > SAVE:
            raise Preempted(self._answer, f"after step {self._step:,}")

    def during_evaluation(self) -> None:
        """Before each batch. Raises: Preempted, as `stop_if_asked`."""
        self._watchdog.reached(self._step)
        self._answer = max(self._ask(self._signals.signum), self._answer)
        self.stop_if_asked()

    def _ask(self, wish: int) -> int:
        """The largest wish of all ranks; of several, that of the question before, which travelled meanwhile."""
        if self._group is None:
            return wish
        answer = self._arrived()
        self._wish = torch.tensor(wish, dtype=torch.int32)
        self._message = dist.all_reduce(self._wish, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return answer

    def _arrived(self) -> int:
        if self._message is None or self._wish is None:
            return GO
        self._message.wait()
        self._message = None
        return int(self._wish)

    def __enter__(self) -> Control:
        self._signals.is_deferred = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """No rank ends before all is saved: its launcher would end the others."""
        if error is not None and not (isinstance(error, Preempted) and self._answer > SAVE):
            return
        if self._checkpoints is not None:
            self._checkpoints.wait()
        if self._mirror is not None:
            self._mirror.flush()
        if self._group is not None:
            self._arrived()
            dist.barrier(group=self._group)
        self._signals.is_over = error is not None
