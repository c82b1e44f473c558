"""Fetched bytes on a local disk, for the next epoch and for other processes: those used longest ago go first.

    <folder>/<name>   an entry: its bytes, then their CRC-32 (with the name's); a name may have folders
    <folder>/.lock    locked while an entry is added; says how many bytes all entries have
    <folder>/.new     the entry that is being written

Entries appear by a rename and never change, so reading needs no lock. A process that is killed leaves at most a
`.new`, which the next one writes over, and a number that is too large, which the next count mends.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import store

U8 = npt.NDArray[np.uint8]
CRC_BYTES = 4
ROOM = 0.9  # of the limit, to which a full cache is emptied: counting all entries is dear
LOG = logging.getLogger("penstock.feed")


class DiskCache:
    """At most `max_bytes` of entries in `folder`. Safe to use from several threads and processes.

    Raises: StorageError where the folder cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder.expanduser().absolute(), max_bytes
        self._checked: set[str] = set()
        self._broken = False
        store.check_writable(str(self._folder))

    def get(self, name: str, num_bytes: int) -> U8 | None:
        """(num_bytes,) uint8, mapped; None where there is no such entry, or none that is whole.

        The checksum is looked at once per process, as that of any mapped file.
        """
        path = self._folder / name
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != num_bytes + CRC_BYTES:
                    self._remove_damaged(path)
                    return None
                entry = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
                with suppress(PermissionError):  # it is another user's, who keeps what he uses
                    os.utime(file.fileno())
        except (FileNotFoundError, PermissionError):
            return None
        content = entry[:-CRC_BYTES]
        if name not in self._checked and _crc(name, content) != entry[-CRC_BYTES:].tobytes():
            self._remove_damaged(path)
            return None
        self._checked.add(name)
        return content

    def put(self, name: str, content: U8) -> None:
        """Adds an entry. Where the disk refuses, says so once and goes on without."""
        num_bytes = len(content) + CRC_BYTES
        if self._broken or num_bytes > self._max_bytes:
            return
        path, new = self._folder / name, self._folder / ".new"
        try:
            with self._locked() as lock:
                if path.exists():
                    return
                total = _number(lock)
                if total is None or total + num_bytes > self._max_bytes:
                    total = self._make_room(num_bytes)
                os.pwrite(lock, b"%020d" % (total + num_bytes), 0)
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with new.open("wb") as file:
                        file.write(content.data)
                        file.write(_crc(name, content))
                    new.rename(path)
                finally:
                    new.unlink(missing_ok=True)
        except OSError as error:
            self._broken = True
            LOG.warning("%s: cannot be written (%s); the feed goes on without adding to its cache", path, error)

    def _make_room(self, num_bytes: int) -> int:
        """Removes entries, the one used longest ago first, until there is room; the bytes of those that stay."""
        entries = [
            (stat.st_mtime_ns, stat.st_size, path)
            for path in self._folder.rglob("*")
            if not path.name.startswith(".") and path.is_file() and (stat := path.stat())
        ]
        total = sum(size for _, size, _ in entries)
        limit = min(self._max_bytes - num_bytes, int(ROOM * self._max_bytes))
        if total + num_bytes <= self._max_bytes:  # it was the number that was wrong
            return total
        for _, size, path in sorted(entries):
            if total <= limit:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    def _remove_damaged(self, path: Path) -> None:
        LOG.warning("%s: the entry of the cache is damaged; its bytes are fetched again", path)
        path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, or the process dies
            yield lock
        finally:
            os.close(lock)


def _crc(name: str, content: U8) -> bytes:
    return zlib.crc32(content.data, zlib.crc32(name.encode())).to_bytes(CRC_BYTES, "little")


def _number(lock: int) -> int | None:
    """What the lock file says; None where it was just made, or is damaged."""
    text = os.pread(lock, 32, 0)
    return int(text) if len(text) == 20 and text.isdigit() else None
