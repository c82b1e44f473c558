"""A run whose folder is not local (`hdfs://`, `s3://`): it is trained in a local folder, which a thread copies there.

The folder is fetched when the run starts, wherever it ran before, and from then on this process alone writes it
(`train/lease.py`). Every POLL_S the thread looks for files that have changed, in the reverse of the order in which a
run writes them, and copies them in that order, each whole or not at all. So wherever that is cut, the run goes on from
what is there: a checkpoint has the figures before it beside it, a report its model. Steps never wait for it; the run
ends where nothing could be copied for PATIENCE_S.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from penstock import log, store
from penstock.errors import RunError, StorageError
from train.checkpoint import KEPT, locked
from train.lease import FILE, Lease

POLL_S, PATIENCE_S = 5.0, 60.0
COMING = "checkpoints/.coming"
LAST = ("model.safetensors", "report.json")  # in this order, after the last checkpoint
STATUS = "status.json"  # the very last: it is read before the others are looked for
NOT_FETCHED = ("tensorboard/", "profile/")  # each start writes files of its own there

Stamp = tuple[int, int, int]  # inode, length and time of change: another file has another one


def local_folder(url: str) -> Path:
    """The folder of a run; of one that is not local, the folder where this machine's user trains it."""
    if store.is_local(url):
        return Path(store.filesystem(url)[1])
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"penstock-{os.getuid()}", digest, url.rpartition("/")[2])


@contextmanager
def mirrored(url: str, say: Callable[[str], None]) -> Iterator[Mirror]:
    """The run of a URL in its local folder, until all is copied back.

    Raises: RunError where another process trains it; StorageError where it cannot be fetched, or copied back.
    """
    folder = local_folder(url)
    _make_private(folder.parent.parent)
    folder.parent.mkdir(exist_ok=True)
    lock = folder.parent / "lock"
    holder, dead = f"{os.getpid()} on {platform.node()}, {uuid4().hex}", lock.read_text() if lock.exists() else None
    handle = locked(lock, url, holder)  # now `dead`, which had it before, has ended
    try:
        with Lease(url, holder, dead, say) as lease:
            shutil.rmtree(folder, ignore_errors=True)
            mirror = Mirror(url, folder, lease)
            mirror.fetch()
            mirror.start()
            try:
                yield mirror
            except BaseException as error:
                try:
                    mirror.close()
                except (RunError, StorageError) as also:
                    if also is not error:
                        log.warning(str(also))
                if isinstance(error, RunError):
                    raise RunError(mirror.named(str(error)), error.values) from error
                raise
            mirror.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise StorageError(f"{folder}: belongs to another user; remove it, or choose another place with TMPDIR")


class Mirror:
    """Copies a local folder to a URL that nobody else writes. `named` is for messages of RunErrors."""

    def __init__(self, url: str, folder: Path, lease: Lease) -> None:
        self.folder = folder
        self._url, self._lease = url, lease
        self._there: dict[str, Stamp | None] = {}  # what the URL has, of which local file
        self._status = b""  # what the URL has of that
        self._asked = self._done = 0  # of flushes
        self._moved: float | None = None  # when something was last written, or begun to be, while there is something
        self._error: BaseException | None = None
        self._is_over = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def named(self, text: str) -> str:
        return text.replace(str(self.folder), self._url)

    def fetch(self) -> None:
        """Makes the local folder what the URL has. Raises: StorageError."""
        self.folder.mkdir(parents=True)
        for name in store.file_names(self._url):
            if _is_hidden(name):
                if name != FILE:
                    store.remove(store.join(self._url, name))  # what a process that was killed was writing
            elif name.startswith(NOT_FETCHED):
                self._there[name] = None
            else:
                store.get(store.join(self._url, name), self.folder / name)
                self._there[name] = _stamp(self.folder / name)
        self._status = self._read_status()

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises: StorageError where nothing could be copied for PATIENCE_S, RunError where another process trains."""
        if self._error is not None:
            raise self._error
        moved = self._moved
        if moved is not None and time.monotonic() - moved > PATIENCE_S:
            raise self._given_up("no answer")

    def flush(self) -> None:
        """Returns when the URL has all that the folder has now. Raises: as `check`."""
        with self._wake:
            self._asked += 1
            asked = self._asked
            self._wake.notify_all()
            while self._done < asked:
                self.check()
                self._wake.wait(0.1)

    def close(self) -> None:
        """Flushes, and ends the thread. Raises: as `check`."""
        try:
            self.flush()
        finally:
            with self._wake:
                self._is_over = True
                self._wake.notify_all()
        self._thread.join()

    def _follow(self) -> None:
        failing: float | None = None
        while True:
            with self._wake:
                if failing is not None or self._asked == self._done:
                    self._wake.wait(POLL_S)
                if self._is_over:
                    return
                asked = self._asked
            self._moved = begun = time.monotonic()
            try:
                self.copy()
            except FileNotFoundError:  # a checkpoint that is not among the newest any more
                continue
            except StorageError as error:
                if failing is None:
                    failing = begun
                    log.warning(f"{error}; trying again, for {PATIENCE_S:.0f} s at most")
                elif time.monotonic() - failing > PATIENCE_S:
                    self._error = self._given_up(str(error))
                    return
                continue
            except BaseException as error:
                self._error = error
                return
            failing = self._moved = None
            with self._wake:
                self._done = asked
                self._wake.notify_all()

    def _given_up(self, why: str) -> StorageError:
        return StorageError(
            f"{self._url}: nothing could be written for {PATIENCE_S:.0f} s ({why}); when it answers, start the same "
            f"command again: the run goes on from what is there"
        )

    def copy(self) -> None:
        """Copies what has changed. Raises: StorageError, RunError; FileNotFoundError where it is to be called again."""
        status, here = self._read_status(), self._look()
        newest = max(filter(_is_step, here), default="")  # the only one that is copied
        changed = {
            name for name in here if here[name] != self._there.get(name) and (name == newest or not _is_step(name))
        }
        # of a finished run that is to go on (--resume-anyway)
        undone = [name for name in reversed(LAST) if name in self._there and (name in changed or name not in here)]
        if not changed and not undone and status == self._status:
            return
        self._lease.check()
        if newest in changed:  # at once, since it will be removed
            self._put(newest, COMING)
        for name in undone:
            self._remove(name)
        for name in sorted(changed, key=lambda name: (_turn(name), name)):
            if name == newest:
                store.move(self._at(COMING), self._at(name))
            else:
                self._put(name, name)
            self._there[name] = here[name]
        if newest in self._there:
            steps = sorted(filter(_is_step, self._there))
            kept = [step for step in steps if step <= newest][-KEPT:]
            for old in set(steps) - set(kept):
                self._remove(old)
        if status != self._status:
            store.replace(self._at(STATUS), status)
            self._status = status

    def _look(self) -> dict[str, Stamp]:
        """The files of the folder: those that are written last are looked for first, so that none is without those
        that were written before it."""
        found = {}
        for turn in reversed(range(len(LAST) + 2)):
            for path in self.folder.rglob("*"):
                name = path.relative_to(self.folder).as_posix()
                if _turn(name) != turn or _is_hidden(name) or name == STATUS:
                    continue
                if (stamp := _stamp(path)) is not None:
                    found[name] = stamp
        return found

    def _read_status(self) -> bytes:
        try:
            return (self.folder / STATUS).read_bytes()
        except FileNotFoundError:
            return b""

    def _put(self, name: str, to: str) -> None:
        store.put(self.folder / name, self._at(to), self._note)
        self._note()

    def _remove(self, name: str) -> None:
        store.remove(self._at(name))
        del self._there[name]
        self._note()

    def _note(self) -> None:
        self._moved = time.monotonic()

    def _at(self, name: str) -> str:
        return store.join(self._url, name)


def _turn(name: str) -> int:
    return 1 if _is_step(name) else 2 + LAST.index(name) if name in LAST else 0


def _is_step(name: str) -> bool:
    return name.startswith("checkpoints/step-") and name.endswith(".pt")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _stamp(path: Path) -> Stamp | None:
    """None where it is no file, or none any more."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if path.is_file() else None
