"""Checkpoints: whole or not there, of the step at which they were asked for, and what a damaged or full disk does."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.errors import RunError, StorageError
from train import checkpoint
from train.checkpoint import MAGIC, TRAILER, Checkpoints


def state(value: float) -> dict[str, Any]:
    return {"step": int(value), "model": {"w": torch.full((1000, 250), value)}, "groups": [{"betas": (0.9, 0.99)}]}


def saved(run: Path, *steps: int) -> None:
    with Checkpoints(run) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step))


def newest(run: Path) -> tuple[dict[str, Any] | None, list[str]]:
    said: list[str] = []
    with Checkpoints(run) as checkpoints:
        return checkpoints.latest(said.append), said


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.name != ".lock")


def test_what_was_saved_is_what_is_read(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    saved(tmp_path, 7)
    found, said = newest(tmp_path)
    assert found is not None
    assert torch.equal(found["model"]["w"], torch.full((1000, 250), 7.0))
    assert found["groups"] == [{"betas": (0.9, 0.99)}]
    assert not said
    assert torch.load(tmp_path / "checkpoints" / "step-00000007.pt", weights_only=True)["step"] == 7  # torch's own file


def test_a_state_is_that_of_its_step_however_long_writing_takes(tmp_path: Path) -> None:
    weights = torch.zeros(5_000_000)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            weights.fill_(step)
            checkpoints.save(step, {"w": weights})
            assert checkpoints.is_writing
            weights.fill_(-1)
    for step in (1, 2):
        found = torch.load(tmp_path / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)
        assert torch.equal(found["w"], torch.full_like(weights, step))


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, state(step), best=step in (1, 3))
    assert names(tmp_path) == ["best.pt", "step-00000005.pt", "step-00000006.pt"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best()["step"] == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_one_is_said_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    path = tmp_path / "checkpoints" / "step-00000020.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-1], "flipped": content, "empty": b""}[damage])
    found, said = newest(tmp_path)
    assert found is not None
    assert found["step"] == 10
    assert len(said) == 1
    assert said[0].startswith(str(path))
    assert said[0].endswith("; going on from step-00000010.pt")
    saved(tmp_path, 12, 14)  # the damaged one does not count among the newest two
    assert names(tmp_path) == ["step-00000012.pt", "step-00000014.pt", "step-00000020.damaged"]


def test_where_all_are_damaged_the_run_does_not_begin_again_unasked(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    for path in (tmp_path / "checkpoints").glob("*.pt"):
        path.write_bytes(b"penstock")
    with pytest.raises(RunError, match=r"step-00000020.pt: cut, .*step-00000010.pt: cut, .*no checkpoint is left"):
        newest(tmp_path)


def test_a_checkpoint_runs_no_pickled_code(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(sprung),)

    path = tmp_path / "checkpoints" / "step-00000001.pt"
    path.parent.mkdir()
    torch.save({"step": Trap()}, path, pickle_module=pickle)
    content = path.read_bytes()
    path.write_bytes(content + TRAILER.pack(MAGIC, len(content), zlib.crc32(content)))
    with pytest.raises(RunError, match="not a checkpoint that can be read"):
        newest(tmp_path)
    assert not sprung.exists()


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_ends_the_run_and_leaves_the_older_ones_whole(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    said = r"step-00000003.pt: a file would be larger"
    with files_of_at_most(600_000), pytest.raises(StorageError, match=said):  # of the million bytes of a checkpoint
        saved(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001.pt", "step-00000002.pt"]
    found, _ = newest(tmp_path)
    assert found is not None
    assert found["step"] == 2


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for left in (".new", ".best"):
        (tmp_path / "checkpoints" / left).write_bytes(b"half")
    saved(tmp_path)
    assert names(tmp_path) == ["step-00000001.pt"]


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import train.checkpoint as c, pathlib; c.Checkpoints(pathlib.Path({str(tmp_path)!r})); print(1); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        other.stdout.readline()
        monkeypatch.setattr(checkpoint, "LOCK_S", 0.2)
        with pytest.raises(RunError, match=rf"another process \({other.pid} on .*\) is training here"):
            Checkpoints(tmp_path)
        other.kill()
    saved(tmp_path, 1)  # a lock dies with its holder
