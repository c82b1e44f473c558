"""A disk that is full in the middle of a run: one sentence, and the run goes on once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.processes import Place, assert_same


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Room for one checkpoint of 1.5 MB, not for a second one beside it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2400k", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.soak
def test_a_run_on_a_full_disk_ends_in_a_sentence_and_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    place, run = Place.made(tmp_path), str(disk / "run")
    code, said = place.start(run, MARKS=str(tmp_path / "marks")).end()
    assert code == 1, said
    assert said.splitlines()[-1].startswith("error: ")
    assert "no space left on the device" in said.splitlines()[-1]
    assert "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    assert "Going on after step" in place.finish(run, MARKS=str(tmp_path / "marks"))
    place.finish("whole")
    assert_same(tmp_path / "whole", disk / "run")
