"""A lock where none dies with its holder, as on HDFS and object stores: a file that its holder keeps writing anew.

Who finds the file of another watches it. One that changes has a holder, and the run is refused. One that stays the same
for LEASE_S has none, and is taken over: its own clock is all that a process goes by. A holder that was away for longer
(stopped, or cut off) finds another name in the file before it next writes anything, and ends. What this leaves open is
the file that it is writing at that moment.

A file that is as old as when its holder last read its own name there is still that one, also where its bytes cannot be
read for a while, as where the DataNodes that have them died: its holder writes it anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from penstock import store
from penstock.errors import RunError, StorageError

FILE = ".lease"
LEASE_S, RENEW_S = 30.0, 5.0


class Lease:
    """Held while the context is open. `dead` is a holder of which the caller knows that it has ended.

    Raises: RunError where another process holds it.
    """

    def __init__(self, run_url: str, holder: str, dead: str | None, say: Callable[[str], None]) -> None:
        self._run_url, self._url = run_url, store.join(run_url, FILE)
        self._holder, self._dead, self._say, self._number = holder, dead, say, 0
        self._read_at: tuple[int, float] | None = None  # the stamp of the file in which this holder was last found
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        seen, since = None, time.monotonic()
        while not store.write_new(self._url, self._content()):
            found = self._read()
            if found is None:
                continue  # it has just ended
            holder = _holder(found)
            if holder == self._dead or (found == seen and time.monotonic() - since > LEASE_S):
                store.replace(self._url, self._content())
                break  # of two that come to this at once, the last one has it: `check` tells the other
            if seen is None:
                self._say(f"{self._run_url}: waiting for {LEASE_S:.0f} s, to see whether {holder} still trains here")
            elif found != seen:
                raise RunError(
                    f"{self._run_url}: another process ({holder}) is training here; wait for it, or choose another "
                    f"--out"
                )
            seen = found
            time.sleep(RENEW_S / 10)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(RENEW_S)
        try:
            self.check()
            store.remove(self._url)
        except (RunError, StorageError):  # it is another's, or will be after LEASE_S
            pass

    def check(self) -> None:
        """Raises: RunError where it is held no more; StorageError."""
        stamp = self._stamp()
        if stamp is not None and stamp == self._read_at:
            return
        found = self._read()
        if found is None or _holder(found) != self._holder:
            other = "its lease is gone" if found is None else f"another process ({_holder(found)}) has taken it over"
            raise RunError(f"{self._run_url}: {other}: this one did not answer for {LEASE_S:.0f} s, and ends")
        self._read_at = stamp

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            try:
                self.check()
                self._number += 1
                store.replace(self._url, self._content())
                self.check()
            except RunError:
                return
            except StorageError:  # the next time, maybe; what must be written has a patience of its own
                continue

    def _content(self) -> bytes:
        return f"{self._holder}\n{self._number}\n".encode()

    def _stamp(self) -> tuple[int, float] | None:
        try:
            size, changed = store.stamp(self._url)
        except FileNotFoundError:
            return None
        return (size, changed) if changed else None  # not every storage says when

    def _read(self) -> bytes | None:
        try:
            return store.read_bytes(self._url)
        except FileNotFoundError:
            return None


def _holder(content: bytes) -> str:
    return content.decode(errors="replace").partition("\n")[0]
