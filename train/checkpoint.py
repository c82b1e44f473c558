"""Checkpoints: the whole state of a run in one file, copied at a step, written by a thread while the run goes on.

    checkpoints/step-00001200.pt   what torch.save wrote, then its length and CRC-32; the newest two are kept
    checkpoints/best.pt            the same file once more, of the best evaluation so far
    checkpoints/.new               the one that is being written; a process that is killed leaves it behind

A file is written beside, synced and renamed, so that under its name it is whole or not there. It is read without
running pickled code. Only rank 0 writes and reads: the state is that of the whole model, for any number of ranks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch

from penstock import store
from penstock.errors import RunError

KEPT = 2
TRAILER = struct.Struct("<8sQI")  # MAGIC, bytes before it, their CRC-32
MAGIC = b"penstock"
CHUNK_BYTES = 4 << 20
LOCK_S = 10.0  # the ranks of a launcher that was killed end within seconds

State = dict[str, Any]  # of tensors, numbers, strings, and dicts and lists of them


class Checkpoints:
    """The checkpoints of a run folder, which no other process may train in meanwhile.

    Raises: RunError where another one does.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "checkpoints"
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copy: Any = None
        with store.storage_errors(str(self._folder)):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self._folder / ".lock", run_folder, f"{os.getpid()} on {platform.node()}")
            for left in (".new", ".best"):
                (self._folder / left).unlink(missing_ok=True)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                self.wait()
            elif self._thread is not None:
                self._thread.join()
        finally:
            os.close(self._lock)

    def latest(self, say: Callable[[str], None]) -> State | None:
        """The state of the newest checkpoint, on the CPU, or None where there is none.

        A damaged one is said and set aside, and the one before is used. Raises: RunError where all are damaged.
        """
        damaged: list[str] = []
        for path in sorted(self._folder.glob("step-*.pt"), reverse=True):
            try:
                found = _read(path)
            except RunError as error:
                damaged.append(str(error))
                continue
            for what in damaged:
                say(f"{what}; going on from {path.name}")
            for newer in self._folder.glob("step-*.pt"):
                if newer.name > path.name:
                    newer.rename(newer.with_suffix(".damaged"))
            return found
        if damaged:
            raise RunError(
                f"{'; '.join(damaged)}; no checkpoint is left: train into another --out, or remove {self._folder} to "
                f"begin again"
            )
        return None

    def best(self) -> State:
        """The state at the best evaluation. Raises: RunError where there is none, or it is damaged."""
        return _read(self._folder / "best.pt")

    @property
    def is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def save(self, step: int, state: Mapping[str, Any], best: bool = False) -> None:
        """Copies the state after `step` steps, and returns while a thread writes it. Waits for the write before.

        Raises: StorageError where the write before failed.
        """
        self.wait()
        self._copy = _copied(state, self._copy)
        # On a GPU the copies are only queued, before the next step's kernels: the thread waits for them, not this one.
        on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        copied = torch.cuda.current_stream().record_event() if on_gpu else None
        self._thread = threading.Thread(target=self._write, args=(step, copied, best), name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raises: StorageError where a write has failed."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Returns when all that was saved is on the disk. Raises: StorageError where it is not."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def _write(self, step: int, copied: torch.cuda.Event | None, best: bool) -> None:
        try:
            if copied is not None:
                copied.synchronize()
            _write(self._folder, step, self._copy, best)
        except BaseException as error:
            self._error = error


def _write(folder: Path, step: int, state: State, best: bool) -> None:
    new = folder / ".new"
    with store.storage_errors(f"{folder}/step-{step:08d}.pt"):
        try:
            with new.open("wb") as file:
                checked = _Checked(file)
                try:
                    torch.save(state, checked)  # type: ignore[arg-type]  # `write` is all it needs
                except Exception:
                    if checked.error is not None:  # torch makes a RuntimeError of it
                        raise checked.error from None
                    raise
                file.write(TRAILER.pack(MAGIC, checked.num_bytes, checked.crc))
                file.flush()
                os.fsync(file.fileno())
            if best:  # before it has its own name: a run that goes on from there need not look back
                _link(new, folder / ".best")
                (folder / ".best").rename(folder / "best.pt")
            new.rename(folder / f"step-{step:08d}.pt")
            store.sync_folder(folder)
        finally:
            new.unlink(missing_ok=True)
        for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
            old.unlink()


def _link(path: Path, to: Path) -> None:
    to.unlink(missing_ok=True)
    try:
        os.link(path, to)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(path, to)  # a filesystem without hard links
        with to.open("rb") as file:
            os.fsync(file.fileno())


def locked(path: Path, run: Path | str, holder: str) -> int:
    """A lock that dies with its holder. Raises: RunError where another process keeps it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < until:
                time.sleep(0.1)
                continue
            other = os.pread(lock, 200, 0).decode(errors="replace")
            os.close(lock)
            raise RunError(
                f"{run}: another process ({other}) is training here; wait for it, or choose another --out"
            ) from error
        except OSError:  # a filesystem without locks: nothing to rely on, nothing to stop for
            return lock
        os.ftruncate(lock, 0)
        os.pwrite(lock, holder.encode(), 0)
        return lock


class _Checked:
    """A file that is written once, and its length and CRC-32 with it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes, self.crc = 0, 0
        self.error: OSError | None = None

    def write(self, content: memoryview | bytes) -> int:
        try:
            self._file.write(content)
        except OSError as error:
            self.error = error
            raise
        self.num_bytes += len(content)
        self.crc = zlib.crc32(content, self.crc)
        return len(content)

    def flush(self) -> None:
        pass


def _read(path: Path) -> State:
    """Raises: RunError where the file is not a whole checkpoint."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - TRAILER.size
            file.seek(max(size, 0))
            trailer = file.read()
            if size < 0 or trailer[: len(MAGIC)] != MAGIC:
                raise RunError(f"{path}: cut, or not a checkpoint of penstock")
            file.seek(0)
            crc, left = 0, size
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
            if trailer != TRAILER.pack(MAGIC, size, crc):
                raise RunError(f"{path}: damaged (its checksum does not fit)")
        found: State = torch.load(path, map_location="cpu", weights_only=True)
    except RunError:
        raise
    except Exception as error:  # torch raises many kinds
        raise RunError(f"{path}: not a checkpoint that can be read ({str(error).partition(chr(10))[0]})") from error
    return found


def _copied(value: Any, buffer: Any) -> Any:
    """`value` with its tensors copied to the CPU, into those of `buffer` where they fit."""
    if isinstance(value, torch.Tensor):
        if not isinstance(buffer, torch.Tensor) or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        return buffer.copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        there = buffer if isinstance(buffer, dict) else {}
        return {name: _copied(item, there.get(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        same = isinstance(buffer, list | tuple) and len(buffer) == len(value)
        return type(value)(_copied(item, buffer[i] if same else None) for i, item in enumerate(value))
    return value
