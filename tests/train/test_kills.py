"""SIGKILL at any moment, of any process: started again, a run ends bit for bit as one that nobody killed."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest

from tests.train.processes import Place, Started, assert_same

MOMENTS = {"1": ("step", "evaluation", "checkpoint"), "2": ("step", "evaluation", "checkpoint", "rank 0", "rank 1")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.made(tmp_path)


def kill(started: Started, moment: str, number: int) -> bool:
    """Kills at the `number`-th step or evaluation from now, or at the next write of a checkpoint after it.

    "rank 0" and "rank 1" are killed in a step, else the process that was started, with the ranks that it launched
    left alone. False where the run was faster.
    """
    if not started.until_next("evaluations" if moment == "evaluation" else "steps", number):
        return False
    if moment == "checkpoint" and not started.until((started.run / "checkpoints" / ".new").exists):
        return False
    if moment.startswith("rank"):
        os.kill(started.ranks()[int(moment[-1])], signal.SIGKILL)
        code, said = started.end()
        assert code == 128 + signal.SIGKILL, said
        assert f"error: {moment} was killed by SIGKILL; the others were ended" in said
        return True
    started.process.kill()
    started.process.wait()
    return True


def check(place: Place, nproc: str, moments: list[tuple[str, int]], epochs: int) -> int:
    """Kills one run at each of the moments, each time in the next life; the number of kills that found it running."""
    more = ("--nproc-per-node", nproc, "--epochs", str(epochs))
    place.finish("whole", *more)
    kills = sum(kill(place.start("killed", *more), moment, number) for moment, number in moments)
    said = place.finish("killed", *more)
    assert "Going on after step" in said or "finished before" in said
    assert_same(place.folder / "whole", place.folder / "killed")
    return kills


def drawn(seed: int, nproc: str, count: int) -> list[tuple[str, int]]:
    rng = random.Random(seed)
    kinds = [MOMENTS[nproc][i % len(MOMENTS[nproc])] for i in range(count)]
    rng.shuffle(kinds)
    return [(kind, rng.randint(1, 3) if kind == "evaluation" else rng.randint(1, 14)) for kind in kinds]


@pytest.mark.slow
@pytest.mark.parametrize(("nproc", "moments"), [("1", [("checkpoint", 7), ("evaluation", 2)]), ("2", [("step", 13)])])
def test_a_killed_run_ends_as_if_it_was_not(nproc: str, moments: list[tuple[str, int]], place: Place) -> None:
    assert check(place, nproc, moments, 10) == len(moments)


@pytest.mark.slow
def test_what_ranks_and_their_launcher_say_are_objects_for_logs(place: Place) -> None:
    started = place.start("told", "--nproc-per-node", "2", "--epochs", "60", PENSTOCK_LOG="json")
    assert started.until_next("steps", 13)
    os.kill(started.ranks()[1], signal.SIGKILL)
    code, said = started.end()
    lines = [json.loads(line) for line in said.splitlines()]
    assert code == 128 + signal.SIGKILL
    killed = next(line for line in lines if line["message"] == "rank 1 was killed by SIGKILL; the others were ended")
    assert (killed["level"], killed["command"], "rank" in killed) == ("ERROR", "train", False)
    first = next(line for line in lines if "Dataset version" in line["message"])
    assert (first["rank"], first["recipe"], first["run"]) == (0, "wide", str(started.run))


@pytest.mark.soak
@pytest.mark.parametrize(("nproc", "count"), [("1", 16), ("2", 14)])
def test_thirty_kills(nproc: str, count: int, place: Place) -> None:
    moments = drawn(5, nproc, count)
    kills = check(place, nproc, moments, 60)
    print(f"{nproc} rank(s): {kills} kills that found the run running, of {moments}")
    assert kills > count // 2
