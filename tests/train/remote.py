"""`remote:///path`: local files that the feed must fetch, and that fail as a test wants them to be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Fetched(bytes):
    """Says how many bytes of its kind there are."""

    alive: ClassVar[int] = 0
    lock: ClassVar[Any] = threading.Lock()

    def __init__(self, content: bytes) -> None:
        with self.lock:
            Fetched.alive += len(content)

    def __del__(self) -> None:
        with self.lock:
            Fetched.alive -= len(self)


class RemoteFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Counts its reads of data files. `before_read` is called with their number, from 1 on, and may raise."""

    protocol: ClassVar[str] = "remote"
    cachable: ClassVar[bool] = False
    before_read: ClassVar[Callable[[int], None]]
    refused: ClassVar[Exception | None]  # raised whatever is asked for
    reads: ClassVar[list[tuple[int, int]]]
    lock: ClassVar[Any] = threading.Lock()

    @classmethod
    def reset(cls) -> None:
        cls.before_read, cls.refused, cls.reads = staticmethod(lambda number: None), None, []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("remote://")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if self.refused is not None:
            raise self.refused
        return LocalFileSystem().ls(path, detail=detail)

    def info(self, path: str, **options: Any) -> Any:
        return LocalFileSystem().info(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        if "split=" in path:
            with self.lock:
                self.reads.append((start or 0, end or 0))
                number = len(self.reads)
            type(self).before_read(number)
        return Fetched(LocalFileSystem().cat_file(path, start, end))


RemoteFileSystem.reset()
fsspec.register_implementation("remote", RemoteFileSystem)


def remote(folder: Path) -> str:
    return f"remote://{folder}"
