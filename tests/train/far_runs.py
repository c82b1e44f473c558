"""Runs in processes of their own whose folder is a URL, that tests kill and look at there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock import store
from tests.train.processes import WAIT_S, Place, Started

# The folder is looked at more often than by default, the storage and a dead holder are waited for less.
QUICK = """
import os, sys
from train import lease, mirror, run
mirror.POLL_S, mirror.PATIENCE_S, lease.LEASE_S, lease.RENEW_S = 0.3, float(os.environ.get("PATIENCE_S", 5)), 10, 1
sys.exit(run.main())
"""


def start(place: Place, url: str, tmp: Path, *more: str, **env: str) -> Started:
    """On a machine whose local folders lie in `tmp`. With several ranks these run with the defaults."""
    tmp.mkdir(exist_ok=True)
    return place.start(Path(url).name, *more, "--out", url, program=("-c", QUICK), TMPDIR=str(tmp), **env)


def fetched(url: str, folder: Path) -> Path:
    for name in store.file_names(url):
        store.get(store.join(url, name), folder / name)
    return folder


def steps(url: str) -> list[str]:
    return [name for name in store.file_names(url) if name.startswith("checkpoints/step-")]


def until(started: Started, holds: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert started.process.poll() is None, started.end()
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def kill_after(started: Started, url: str, num_checkpoints: int) -> str:
    """SIGKILL after so many checkpoints more are there. Returns what was said."""
    before = steps(url)
    seen = set(before)

    def have_come() -> bool:
        seen.update(steps(url))
        return len(seen) - len(before) >= num_checkpoints

    until(started, have_come)
    started.process.kill()
    return started.end()[1]


def check_kills(place: Place, url: str, tmp_path: Path) -> None:
    """Killed twice, and ended on another machine, a run is as the one that nobody killed: `whole` in `place`."""
    kill_after(start(place, url, tmp_path / "one", SLEEP_STEPS="0.2"), url, 2)
    said = kill_after(start(place, url, tmp_path / "one", SLEEP_STEPS="0.2"), url, 2)
    assert "Going on after step" in said
    assert "to see whether" not in said  # on the same machine its end is known
    code, said = start(place, url, tmp_path / "other").end()
    assert code == 0, said
    assert "to see whether" in said
    assert "Going on after step" in said
    assert not [name for name in store.file_names(url) if "/." in f"/{name}"]
