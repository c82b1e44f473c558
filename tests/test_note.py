"""What `make soak` notes: each test that ran, a section for each run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = """
import pytest

@pytest.mark.parametrize("times", [3])
def test_kills(times): pass

def test_breaks(): assert False

def test_skips(): pytest.skip("no disk")

def test_lacks_something(nothing): pass
"""


def test_a_run_adds_a_section_with_a_line_for_each_test(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_it.py").write_text(TESTS)
    line = [sys.executable, "-m", "pytest", "-p", "tests.note", "test_it.py"]
    for kills in ("10", "11"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILLS": kills}
        assert subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True).returncode == 1
    (note,) = (tmp_path / "bench" / "results").glob("*-soak.md")
    said = note.read_text().splitlines()
    assert [line for line in said if line.startswith("    ")] == [
        f"    KILLS={kills} python -m pytest -p tests.note test_it.py" for kills in ("10", "11")
    ]
    assert sum(line.startswith("1 passed, 1 failed, 1 error, 1 skipped in ") for line in said) == 2
    found = [line.split(" | ")[:2] for line in said if line.startswith("| test_it")]
    assert found[:4] == [
        ["| test_it.py::test_kills[3]", "passed"],
        ["| test_it.py::test_breaks", "failed"],
        ["| test_it.py::test_skips", "skipped"],
        ["| test_it.py::test_lacks_something", "error"],
    ]
    assert said.count("| test | ended | seconds |") == 2
