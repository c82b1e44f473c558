"""The daemons of a cluster as processes: what each is started with, when it is up, and how exactly it is stopped.

A daemon is known by its process id and the time at which that process began, so that another process which has got
the same id since is never mistaken for it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import PenstockError

STOP_S = 20.0  # what a daemon gets to end by itself


@dataclass(frozen=True)
class Daemon:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Process:
    pid: int
    began: int  # clock ticks after the machine's start

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """None where there is no such process, or one that has ended and was not waited for."""
        try:
            # The name, in parentheses, may hold anything: fields are counted behind it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] == "Z" else cls(pid, int(fields[19]))

    @property
    def is_alive(self) -> bool:
        return Process.of(self.pid) == self


def start(daemon: Daemon, logs: Path) -> Process:
    """In a session of its own, so that Ctrl-C in the terminal that started it does not end it."""
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{daemon.name}.log").open("ab") as log:
        process = subprocess.Popen(
            daemon.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **daemon.environment},
            start_new_session=True,
        )
    if (found := Process.of(process.pid)) is None:
        raise PenstockError(f"{daemon.name}: ended at once; {log.name} says why")
    return found


def stop(processes: Sequence[Process]) -> None:
    """SIGTERM to all, and SIGKILL to those that are still there after STOP_S."""
    for sent, within_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        for process in processes:
            if process.is_alive:
                os.kill(process.pid, sent)
        until = time.monotonic() + within_s
        while any(process.is_alive for process in processes) and time.monotonic() < until:
            _reap(processes)
            time.sleep(0.1)


def below(folder: Path) -> Iterator[Process]:
    """The processes that work in a folder: containers and executors whose daemon was killed, no one's shell."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                cwd, name = Path(os.readlink(entry / "cwd")), (entry / "comm").read_text()
            except OSError:
                continue
            is_ours = name.startswith(("java", "python")) and int(entry.name) != os.getpid()
            if is_ours and cwd.is_relative_to(folder) and (process := Process.of(int(entry.name))) is not None:
                yield process


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the daemons do: not kept by old connections
        try:
            opened.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reap(processes: Sequence[Process]) -> None:
    """Our own children are waited for, else they would stay as zombies."""
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
