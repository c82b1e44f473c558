"""Bytes of files that are not local: by ranges, ahead of their use, and again where an error may pass."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import fsspec
import numpy as np

from penstock import store
from penstock.errors import DatasetError, StorageError
from train.feed.disk_cache import U8

Ranges = tuple[tuple[int, int], ...]  # of a file: (start, stop), ascending

GAP_BYTES, GAP_SHARE = 64 << 10, 0.1  # bytes that nobody wants, or share of a range: read rather than ask twice
NUM_TRIES, FIRST_WAIT_S, TIMEOUT_S = 6, 0.1, 60.0
SILENCE_S = 5.0  # after which a trainer that waits for bytes says so
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
LOG = logging.getLogger("penstock.feed")


@dataclass(frozen=True)
class Part:
    """Ranges of a file in memory, one behind the other: `content` is (bytes,) uint8."""

    content: U8
    ranges: Ranges

    @cached_property
    def address(self) -> int:
        return int(self.content.ctypes.data)

    def place(self, offset: int) -> int:
        """Where in `content` the file's byte `offset` is."""
        before = 0
        for start, stop in self.ranges:
            if start <= offset < stop:
                return before + offset - start
            before += stop - start
        assert offset == stop, f"byte {offset} is in none of {self.ranges}"
        return before  # of a chunk that has no byte


class Patience:
    """Of those who wait for the storage: says once why they do, and sends them home when they are `stopped`."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._said: set[str] = set()

    def say(self, why: str, message: str) -> None:
        if why not in self._said:
            self._said.add(why)
            LOG.warning(message)


def coalesce(chunks: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges that cover the chunks, joined where the gap between two costs less than another read."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(chunks):
        if joined and start - joined[-1][1] <= max(GAP_BYTES, GAP_SHARE * (joined[-1][1] - joined[-1][0])):
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        elif start < stop:
            joined.append((start, stop))
    return tuple(joined)


def fetch(url: str, ranges: Ranges, file_bytes: int, where: str, patience: Patience) -> U8:
    """The ranges' bytes, one behind the other. `where` names them in errors.

    What a filesystem's driver raises is its own affair, so all that is not known to stay is tried again.

    Raises: FileNotFoundError; DatasetError where the file has not `file_bytes`; StorageError after the last try.
    """
    if not ranges:
        return np.empty(0, np.uint8)
    fs, path = store.filesystem(url)
    starts, stops = zip(*ranges, strict=True)
    begun = time.monotonic()
    for tried in range(1, NUM_TRIES + 1):
        try:
            with store.storage_errors(url):
                found = fs.cat_ranges([path] * len(ranges), list(starts), list(stops))
                for content in found:
                    if isinstance(content, Exception):
                        raise content
            if sum(map(len, found)) == sum(stops) - sum(starts):
                return np.frombuffer(found[0] if len(found) == 1 else b"".join(found), np.uint8)
            error: Exception = EOFError("fewer bytes than asked for")
        except (*PERMANENT, StorageError):
            raise
        except Exception as raised:
            error = raised
        if tried == 1:
            _check_size(fs, path, url, file_bytes)
            patience.say("error", f"{where}: {_short(error)}; trying again, for {TIMEOUT_S:.0f} s at most")
        wait_s = FIRST_WAIT_S * 2 ** (tried - 1) * random.uniform(0.5, 1.5)
        waited_s = time.monotonic() - begun
        if tried == NUM_TRIES or waited_s + wait_s > TIMEOUT_S:
            raise StorageError(
                f"{where}: cannot be read, tried {tried} times in {waited_s:.0f} s ({_short(error)}); "
                f"start again when the storage answers"
            ) from error
        if patience.stopped.wait(wait_s):
            raise CancelledError
    raise AssertionError


def wrong_size(url: str, expected: int, found: int) -> DatasetError:
    return DatasetError(f"{store.shown(url)}: expected {expected:,} bytes, found {found:,}; build the dataset again")


def _check_size(fs: fsspec.AbstractFileSystem, path: str, url: str, expected: int) -> None:
    """Raises: DatasetError where the storage says that the file is of another size."""
    try:
        found = fs.size(path)
    except Exception:  # it does not answer: what the next try is for
        return
    if found is not None and found != expected:
        raise wrong_size(url, expected, found)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


class Ahead:
    """Loads row groups by threads, before they are needed, for pieces of work that are begun in order.

    `needs` says which row groups each piece of work needs. Held are those of the pieces that have begun and of the
    ones that follow, `num_ahead` pieces in all; each row group is loaded once.
    """

    def __init__(
        self,
        load: Callable[[int, Patience], Part],
        needs: Iterator[tuple[Hashable, Sequence[int]]],
        num_ahead: int,
        num_threads: int,
    ) -> None:
        self._load, self._needs, self._num_ahead = load, needs, num_ahead
        self._num_threads = num_threads
        self._threads: ThreadPoolExecutor | None = None
        self._patience = Patience()
        self._lock = threading.Lock()
        self._announced: dict[Hashable, Sequence[int]] = {}
        self._users: Counter[int] = Counter()
        self._held: dict[int, Future[Part]] = {}

    @contextmanager
    def parts(self, work: Hashable) -> Iterator[list[Part]]:
        """The row groups that a piece of work needs, until it is done. Raises: as `load`."""
        with self._lock:
            while work not in self._announced or len(self._announced) < self._num_ahead:
                if (need := next(self._needs, None)) is None:
                    break
                self._announce(*need)
            needed = [self._held[group] for group in self._announced[work]]
        try:
            yield [self._awaited(future) for future in needed]
        finally:
            with self._lock:
                self._release(work)

    def _awaited(self, part: Future[Part]) -> Part:
        with suppress(TimeoutError):
            return part.result(SILENCE_S)
        if not part.done():  # else the error is its own
            self._patience.say("silence", f"the storage has not answered for {SILENCE_S:.0f} s; waiting for it")
        return part.result()

    def _announce(self, work: Hashable, groups: Sequence[int]) -> None:
        self._announced[work] = groups
        if self._patience.stopped.is_set():
            raise CancelledError
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="feed-fetch")
        for group in groups:
            if group not in self._held:
                self._held[group] = self._threads.submit(self._load, group, self._patience)
            self._users[group] += 1

    def _release(self, work: Hashable) -> None:
        for group in self._announced.pop(work):
            self._users[group] -= 1
            if not self._users[group]:
                del self._users[group], self._held[group]

    def rest(self) -> None:
        """No work until the next pass: the threads end what is to be fetched, then themselves."""
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None

    def close(self) -> None:
        """Ends all waits with a CancelledError; a read that has begun is waited for."""
        with self._lock:
            self._patience.stopped.set()
            threads = self._threads
        if threads is not None:
            threads.shutdown(cancel_futures=True)
