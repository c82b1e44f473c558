"""Signals, dying and hanging ranks: who ends, how soon, with which exit code and sentence, and that the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState

from tests.train.processes import SOON_S, Place, Started, assert_same, outcome
from tests.train.ranks import free_port
from train import launch
from train.preemption import SAME_S

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
TWO = ("--nproc-per-node", "2")
RESTARTING = (*TWO, "--max-restarts", "2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.made(tmp_path_factory.mktemp("preemption"))


def test_a_signal_ends_a_run_where_it_can_go_on(place: Place) -> None:
    """SIGTERM in a step, SIGTERM in an evaluation, Ctrl-C: then the run ends as one that nobody stopped."""
    place.finish("whole")
    started = place.start("stopped")
    code, said = started.stop(signal.SIGTERM)
    assert code == 75, said
    assert "SIGTERM: stopped after step" in said
    assert said.rstrip().endswith("the same command goes on from there")
    assert started.status()["state"] == "preempted"

    started = place.start("stopped", SLEEP_EVALUATIONS="1")
    assert started.until_next("evaluations", 1)
    os.kill(started.process.pid, signal.SIGTERM)
    code, said = started.end(SOON_S)
    assert code == 75, said
    newest = torch.load(max((started.run / "checkpoints").glob("step-*.pt")), weights_only=True)
    assert newest["position"] == {"step": newest["position"]["step"] // 5 * 5, "evaluated": False}

    started = place.start("stopped")
    code, said = started.stop(signal.SIGINT)
    assert code == 130, said
    assert "SIGINT: stopped after step" in said
    place.finish("stopped")
    assert started.status()["state"] == "finished"
    assert_same(place.folder / "whole", place.folder / "stopped")
    timings = (started.run / "timings.jsonl").read_text().splitlines()
    assert all(json.loads(line)["rows"] > 0 for line in timings)  # of the epoch that was evaluated later, too


ORPHAN = """
import ctypes, os, signal, sys, time
from train.preemption import caught
parent = os.getppid()
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, as dags/launch.py asks for it
with caught() as signals:
    signals.is_deferred = True
    print(os.getpid(), flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(0.5)
    print("saved" if signals.signum else "no signal", flush=True)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_the_death_of_who_started_a_run_is_no_second_signal() -> None:
    """As where Airflow ends a task: SIGTERM to all, and SIGKILL to the task's process five seconds later."""
    with subprocess.Popen([sys.executable, "-c", PARENT, ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGTERM)
        time.sleep(2 * SAME_S)
        parent.kill()
        assert parent.stdout.readline() == "saved\n"


def test_a_rank_that_ends_between_two_looks_is_not_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    class Agent:
        ended: ClassVar[dict[int, int]] = {}

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def run(self) -> RunResult:
            return RunResult(WorkerState.FAILED, failures={1: SimpleNamespace(exitcode=75)})

    monkeypatch.setattr(launch, "_Agent", Agent)
    monkeypatch.setattr(launch.rendezvous, "get_rendezvous_handler", lambda _: SimpleNamespace(shutdown=lambda: None))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_SIGNALS_TO_HANDLE"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    assert launch.launch(launch.Launch(2), []) == 75


def test_a_second_signal_ends_a_run_at_once(place: Place) -> None:
    started = place.start("twice", SLEEP_STEPS="120")
    assert started.until_next("steps", 1)
    os.kill(started.process.pid, signal.SIGTERM)
    time.sleep(0.5)
    os.kill(started.process.pid, signal.SIGTERM)
    assert started.end(SOON_S)[0] == 143


@pytest.mark.parametrize("lives", [[RESTARTING], pytest.param([TWO, (), RESTARTING], marks=pytest.mark.soak)])
def test_another_number_of_ranks_goes_on_with_the_same_batches(place: Place, lives: list[tuple[str, ...]]) -> None:
    """Each until its launcher gets SIGTERM, or with restarts until one of its ranks does; then 1 rank to the end."""
    run = f"several-{len(lives)}"
    place.finish("one", DROPOUT="0")
    for ranks in lives:
        started = place.start(run, *ranks, DROPOUT="0")
        assert started.until_next("steps", 3)
        code, said = started.stop(signal.SIGTERM, started.ranks()[1] if ranks == RESTARTING else None)
        assert code == 75, said
        assert said.count("SIGTERM: stopped after step") == 1
        assert started.status()["state"] == "preempted"
    place.finish(run, DROPOUT="0")
    one, several = outcome(place.folder / "one"), outcome(place.folder / run)
    for mine, theirs in zip(one[0].splitlines(), several[0].splitlines(), strict=True):
        assert json.loads(mine) == pytest.approx(json.loads(theirs), rel=1e-4)
    torch.testing.assert_close(one[1], several[1], rtol=1e-3, atol=1e-5)


def test_a_rank_that_dies_is_heard_and_takes_the_others_along(place: Place) -> None:
    started = place.start("dying", *TWO, FAIL="1")
    assert started.until(Path(started.marks + "failed").exists)
    code, said = started.end(SOON_S)
    assert code == 1
    assert said.count("Traceback") == 1
    assert "ValueError: a bug of the recipe" in said
    assert "rank 0 ends" in said.partition("Traceback")[2]
    assert started.status()["state"] == "failed"
    assert "rank 1: ValueError: a bug of the recipe" in started.status()["error"]


def test_torchrun_starts_ranks_again_that_died(place: Place) -> None:
    program = (*TORCHRUN, "--max-restarts", "1", "-m", "train.run")
    started = place.start("restarted", FAIL="1", program=program)
    code, said = started.end()
    assert code == 0, said
    assert "Going on after step" in said
    assert started.status()["state"] == "finished"


def test_two_machines_end_together_and_go_on(place: Place) -> None:
    """Two launchers on loopback, with a rank each; SIGTERM to one of them."""

    def both(port: int) -> list[Started]:
        meeting = ("--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}")
        return [place.start("machines", *meeting, "--node-rank", str(rank)) for rank in range(2)]

    first, second = both(free_port())
    assert first.until_next("steps", 3)
    assert second.stop(signal.SIGTERM)[0] == 75
    assert first.end(SOON_S)[0] == 75
    assert first.status()["state"] == "preempted"
    ends = [started.end() for started in both(free_port())]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "Going on after step" in ends[0][1]


def test_torchrun_does_not_train_on_after_a_preemption(place: Place) -> None:
    program = (*TORCHRUN, "--max-restarts", "2", "-m", "train.run")
    started = place.start("torchrun", program=program)
    assert started.until_next("steps", 3)
    os.kill(started.ranks()[1], signal.SIGTERM)
    assert started.until(lambda: started.status()["state"] == "preempted")
    steps = started.count("steps")
    code, _ = started.end()
    assert code == 1  # of torchrun, whatever its ranks say
    assert started.count("steps") == steps
    assert started.status()["state"] == "preempted"


def test_a_rank_that_hangs_is_named(place: Place) -> None:
    started = place.start("hanging", *TWO, "--timeout", "40")  # the start counts too, and is slow beside other work
    assert started.until_next("steps", 3)
    stopped = started.ranks()[1]
    os.kill(stopped, signal.SIGSTOP)
    assert started.until(lambda: started.status()["state"] == "failed")
    os.kill(stopped, signal.SIGCONT)  # it would get SIGKILL half a minute later
    code, said = started.end(40)
    assert code == 1, said
    error = started.status()["error"]
    assert error.startswith(f"rank 1 (process {stopped} on ")
    assert error.endswith(" for 40 s (--timeout)")
    assert f"error: {error}" in said
