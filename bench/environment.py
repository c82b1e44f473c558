"""The Python environments of the peers, made from their locks, and what machine a bench ran on."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

from penstock.errors import PenstockError

AS_FOUND = dict(os.environ)  # before `train` says how torch's threads wait: a peer gets what its users would have
ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"


def environment(name: str) -> Path:
    """The Python of a peer's environment, made from its lock where it is not there yet, or was made from another.

    Raises: PenstockError where it cannot be installed.
    """
    home, lock = ROOT / ".venvs" / name, PEERS / name / "requirements.lock"
    python, made = home / "bin" / "python", home / ".made"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if made.exists() and made.read_text() == wanted:
        return python
    uv = [Path(sys.executable).with_name("uv"), "--system-certs", "pip", "sync", "--quiet", "--require-hashes"]
    for step in ([sys.executable, "-m", "venv", home], [*uv, "--python", python, lock]):
        done = subprocess.run(list(map(str, step)), stderr=subprocess.PIPE, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PenstockError(f"{name}: its environment cannot be made from {lock.relative_to(ROOT)}: {why}")
    made.write_text(wanted)
    return python


def cpu_name() -> str:
    try:  # Linux: the platform module knows no more than the architecture
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "processor": cpu_name(), "python": platform.python_version()}
