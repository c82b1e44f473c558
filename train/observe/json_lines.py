"""Files of JSON lines that a kill may have cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a last one that was cut is left out, and a file that is not there has none."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def append(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(value) + "\n")
