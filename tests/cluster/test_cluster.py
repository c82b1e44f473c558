"""The cluster itself: it comes up again with its data after `kill -9` of everything, and `down` leaves no process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cluster import daemons
from cluster.__main__ import down, load, main, up
from penstock import store
from penstock.console import Console


def test_up_killed_up_again_and_down(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    first = up(folder, ["hdfs"], Console())
    try:
        store.write(f"{first.hdfs_url}/kept", memoryview(b"kept"))
        assert up(folder, ["hdfs"], Console()).processes == first.processes
        for process in first.processes.values():
            os.kill(process.pid, signal.SIGKILL)
        daemons.stop(list(first.processes.values()))
        again = up(folder, ["hdfs"], Console())
        assert not set(again.processes.values()) & set(first.processes.values())
        fs, path = store.filesystem(f"{again.hdfs_url}/kept")
        assert fs.cat_file(path) == b"kept"
        store.make_private(f"{again.hdfs_url}/quarantine")
        assert fs.client.get_file_info("/quarantine").permission == 0o700
    finally:
        assert down(folder) == 3
    assert not any(load(folder).is_alive(name) for name in first.processes)
    assert main(["down", "--dir", str(folder), "--wipe"]) == 0
    assert not folder.exists()
