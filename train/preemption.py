"""SIGTERM and SIGINT: the run ends after the step that it is in, with a checkpoint. A second one ends it at once.

Exit codes: 75 after SIGTERM ("try again": EX_TEMPFAIL of sysexits.h), 130 after SIGINT, 143 or 130 after a second one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.errors import Preempted

SAME_S = 0.3  # schedulers signal every process, and launchers theirs: what comes so soon after is the same signal


class Signals:
    """What has arrived: `signum` is 0, SIGTERM or SIGINT. Outside of `caught` nothing ever does."""

    def __init__(self) -> None:
        self.signum = 0
        self.is_deferred = False  # the run looks at `signum` before each step; else Preempted is raised at once
        self.is_over = False  # all is saved: what still arrives is from the launcher, which saw another rank end

    def _arrived(self, signum: int, frame: object) -> None:
        self.signum = self.signum or signum
        if not self.is_deferred and not self.is_over:
            raise Preempted(signum)


@contextmanager
def caught() -> Iterator[Signals]:
    """SIGTERM and SIGINT go to the Signals that it yields. For the main thread."""
    signals = Signals()
    before = {signum: signal.signal(signum, signals._arrived) for signum in (signal.SIGTERM, signal.SIGINT)}
    # Python's handlers wait for the main thread, which may be in a collective that never ends. This pipe does not.
    read, write = os.pipe()
    os.set_blocking(write, False)
    fd_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=_end_at_the_second, args=(read, signals), name="signals", daemon=True)
    thread.start()
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(fd_before)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(write)
        thread.join()
        os.close(read)


def _end_at_the_second(read: int, signals: Signals) -> None:
    first: float | None = None
    parent = os.getppid()
    while arrived := os.read(read, 1):
        signum, now = arrived[0], time.monotonic()
        if signum not in (signal.SIGTERM, signal.SIGINT) or signals.is_over:
            continue
        if first is None:
            first = now
        elif os.getppid() != parent:  # of whose death the kernel tells by the same signal (PR_SET_PDEATHSIG)
            parent = os.getppid()
        elif now - first > SAME_S:
            os._exit(128 + signum)
