"""status.json of a run folder: what became of the run, for schedulers and people.

`state` is "running", "preempted" (start the same command again), "failed" (with `error`) or "finished". A process that
is killed cannot say so: then it stays "running", and `pid` on `host` is gone.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from penstock import store
from penstock.errors import Preempted

State = Literal["running", "preempted", "failed", "finished"]


def write(run: Path | str, state: State, **facts: Any) -> None:
    told = {"state": state, **facts, "pid": os.getpid(), "host": platform.node(), "at": _now(), "launch": launch()}
    store.replace(store.join(str(run), "status.json"), json.dumps(told, indent=1).encode() + b"\n")


@contextmanager
def told(run_folder: Path, world_size: int, named: Callable[[str], str]) -> Iterator[None]:
    """Says that the run is running, and in the end what became of it. `named`: an error's text as others see it."""
    write(run_folder, "running", world_size=world_size)
    try:
        yield
    except Preempted as stopped:
        write(run_folder, "preempted", detail=str(stopped))
        raise
    except BaseException as error:
        write(run_folder, "failed", error=named(str(error)) or type(error).__name__)
        raise
    write(run_folder, "finished")


def is_restart_of_preempted(run_folder: Path) -> bool:
    """Whether torchrun started a rank again which ended because it was asked to."""
    is_restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    found = read(run_folder)
    return is_restart and found.get("state") == "preempted" and found.get("launch") == launch()


def read(run_folder: Path) -> dict[str, Any]:
    """{} where there is none yet, or none that can be read."""
    try:
        found = json.loads((run_folder / "status.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def launch() -> str | None:
    """What the ranks of one launch have in common, over its restarts; None without a launcher."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
