"""`remote:///path`: local files that the feed must fetch, and that fail and are slow as a test wants them to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class RemoteFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Counts its reads of data files. `before_read` is called with their number, from 1 on, and may raise."""

    protocol: ClassVar[str] = "remote"
    cachable: ClassVar[bool] = False
    before_read: ClassVar[Callable[[int], None]]
    delay_s: ClassVar[float]
    reads: ClassVar[list[tuple[int, int]]]
    lock: ClassVar[Any] = threading.Lock()

    @classmethod
    def reset(cls) -> None:
        cls.before_read, cls.delay_s, cls.reads = staticmethod(lambda number: None), 0.0, []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("remote://")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return LocalFileSystem().ls(path, detail=detail)

    def info(self, path: str, **options: Any) -> Any:
        return LocalFileSystem().info(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        if "split=" in path:
            with self.lock:
                self.reads.append((start or 0, end or 0))
                number = len(self.reads)
            time.sleep(self.delay_s)
            type(self).before_read(number)
        return LocalFileSystem().cat_file(path, start, end)


RemoteFileSystem.reset()
fsspec.register_implementation("remote", RemoteFileSystem)


def remote(folder: Path) -> str:
    return f"remote://{folder}"
