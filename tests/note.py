"""A dated note of what was tested: `pytest -p tests.note …`, as `make soak` does, adds to bench/results/<date>-soak.md.

Every run is a section there, with its command, commit and machine, and a line for each test: how it ended, after how
long. The names of tests that kill at drawn moments say how often, and from which seed these were drawn.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from bench import environment

OUTCOMES = ("passed", "failed", "error", "skipped")
BEGUN = time.time()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ended = [(report, outcome) for outcome in OUTCOMES for report in terminalreporter.getreports(outcome)]
    if not ended:
        return
    at = datetime.fromtimestamp(BEGUN)
    path = config.rootpath / "bench" / "results" / f"{at:%Y-%m-%d}-soak.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else f"# The tests that kill and corrupt, {at:%Y-%m-%d}\n"
    path.write_text(before + section(at, ended, config))
    terminalreporter.write_line(f"Note: {path}")


def section(at: datetime, ended: list[tuple[pytest.TestReport, str]], config: pytest.Config) -> str:
    counts = Counter(outcome for _, outcome in ended)
    kills = [f"KILLS={os.environ['KILLS']}"] if "KILLS" in os.environ else []
    machine = environment.machine()
    lines = [
        f"\n## {at:%H:%M}, commit {commit(config.rootpath)}\n",
        f"    {' '.join([*kills, 'python -m pytest', *map(str, config.invocation_params.args)])}\n",
        f"{', '.join(f'{counts[outcome]} {outcome}' for outcome in OUTCOMES if counts[outcome])} "
        f"in {time.time() - BEGUN:.0f} s; {machine['processor']}, {machine['cores']} cores, "
        f"load {os.getloadavg()[2]:.1f}, Python {machine['python']}.\n",
        "| test | ended | seconds |",
        "|---|---|---|",
        *(
            f"| {report.nodeid.removeprefix('tests/')} | {outcome} | {report.duration:.0f} |"
            for report, outcome in sorted(ended, key=lambda pair: pair[0].start)
        ),
    ]
    return "\n".join(lines) + "\n"


def commit(folder: Path) -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
