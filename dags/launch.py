"""How a command of the trainer gets to the machine that has its environment: as a process here, by ssh, as a pod.

All of them log what it prints, take its last line (`--json`) as the task's result, and treat its exit code alike: 75,
it was asked to end and goes on from its checkpoint, so the task is started again without using up a retry; 1 and 2, it
has said what is wrong, so that trying again is of no use. What the storage refused is retried, and so is any other
code, such as that of a machine that died.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRescheduleException

from dags import seen
from dags.settings import Launcher, Pipeline
from penstock.errors import PREEMPTED, PenstockError

AGAIN_AFTER = timedelta(seconds=10)


@contextmanager
def as_failure() -> Iterator[None]:
    """What the data or the settings are the cause of ends a task: trying again gives the same."""
    try:
        yield
    except PenstockError as error:
        raise AirflowFailException(str(error)) from None


def launch(pipeline: Pipeline, task_id: str, arguments: Sequence[str], kept: Sequence[int] = ()) -> BaseOperator:
    """`penstock ARGUMENTS --json` by the pipeline's launcher. Exit codes in `kept` are no failure, and yet no success
    of what was asked: the result, which is what the command says last, tells which.
    """
    if pipeline.launcher.kind == "kubernetes":
        from dags.pod import LaunchPod

        return LaunchPod(task_id=task_id, pipeline=pipeline, arguments=arguments, kept=kept)
    return Launch(task_id=task_id, pipeline=pipeline, arguments=arguments, kept=kept)


class Process(Protocol):
    """A command that runs somewhere."""

    def lines(self) -> Iterator[str]:
        """What it prints, until it ends."""

    def code(self) -> int: ...

    def stop(self) -> None:
        """Asks it to end, as SIGTERM does."""


class Launch(BaseOperator):
    """The command as a process here, or on the machine of an SSH connection."""

    template_fields = ("arguments",)

    def __init__(self, *, pipeline: Pipeline, arguments: Sequence[str], kept: Sequence[int] = (), **rest: Any) -> None:
        super().__init__(**rest)
        self.launcher, self.arguments, self.kept = pipeline.launcher, list(arguments), tuple(kept)
        self._process: Process | None = None

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        command = [self.launcher.penstock, *self.arguments, "--json"]
        self.log.info("%s: %s", self.launcher.kind, shlex.join(command))
        self._process = _here(command) if self.launcher.kind == "local" else _Ssh(self.launcher, command)
        said = Said()
        for line in self._process.lines():
            said.hear(line)
            self.log.info("%s", line.rstrip())
        told = judge(self._process.code(), said, self.kept)
        seen.tell(context, told)
        return told

    def on_kill(self) -> None:
        if self._process is not None:
            self._process.stop()


@dataclass
class Said:
    """What counts of all that a command prints: its last line, and its last error."""

    last: str = ""
    error: str = ""

    def hear(self, line: str) -> None:
        if line := line.strip():
            self.last = line
        if line.startswith("error: "):
            self.error = line.removeprefix("error: ")

    def result(self) -> dict[str, Any]:
        try:
            value = json.loads(self.last)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def judge(code: int, said: Said, kept: Sequence[int] = ()) -> dict[str, Any]:
    """The result of a command that ended with this exit code, or the exception that Airflow acts on."""
    result = said.result()
    if code == 0 or code in kept:
        return result
    if code == PREEMPTED:
        raise AirflowRescheduleException(datetime.now(UTC) + AGAIN_AFTER)
    what = str(result.get("error") or said.error or said.last or "it printed nothing")
    if code in (1, 2) and result.get("kind") != "StorageError":
        raise AirflowFailException(what)
    raise AirflowException(f"exit code {code}: {what}")


class _Here:
    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        yield from self.process.stdout

    def code(self) -> int:
        return self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)


def _here(command: Sequence[str]) -> _Here:
    try:
        return _Here(command)
    except OSError as error:
        raise AirflowFailException(
            f"{command[0]}: cannot be started ({error.strerror}); the launcher's setting `penstock` names the command"
        ) from error


def _end_with_parent() -> None:
    """A worker that is killed takes its trainer along, which writes a checkpoint for the next try to go on from."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class _Ssh:
    """The command on another machine; its first line is its process id there, which `stop` needs."""

    def __init__(self, launcher: Launcher, command: Sequence[str]) -> None:
        from airflow.providers.ssh.hooks.ssh import SSHHook

        self.again = partial(SSHHook, ssh_conn_id=launcher.ssh)
        self.client = self.again().get_conn()
        line = f"echo $$; exec {shlex.join(command)} 2>&1"
        _, self.output, _ = self.client.exec_command(f"exec sh -c {shlex.quote(line)}")
        self.pid = int(self.output.readline())

    def lines(self) -> Iterator[str]:
        yield from self.output

    def code(self) -> int:
        code: int = self.output.channel.recv_exit_status()
        self.client.close()
        return code

    def stop(self) -> None:
        # A hook of its own: one gives the same connection again, whose command would be cut off.
        with self.again().get_conn() as client:
            client.exec_command(f"kill -TERM {self.pid}")[1].channel.recv_exit_status()
