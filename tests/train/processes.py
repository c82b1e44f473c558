"""Runs in processes of their own, that tests stop, kill and start again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_flatten

from tests.train.conftest import SCHEMA, numbered_files, write_dataset

RECIPE = '''
"""Predicts x's first value modulo 3 from x, slowly, and marks each batch of rank 0 in a file."""
import os
import time

import torch
from torch import nn

from train.classification import loss, metrics, predict
from train.config import TrainConfig

def config(model=None):
    return TrainConfig(model="wide", epochs=10, global_batch_size=16, lanes=4, ema_decay=0.9)

def build_model(config, card):
    width, dropout = int(os.environ.get("WIDTH", 300)), float(os.environ.get("DROPOUT", 0.2))
    return nn.Sequential(
        nn.Linear(3, width), nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )

def prepare(batch, card):
    kind, marks = "steps" if torch.is_grad_enabled() else "evaluations", os.environ["MARKS"]
    if os.environ.get("RANK", "0") == "0":
        with open(marks + kind, "a") as file:
            file.write(".")
    if os.environ.get("FAIL") == os.environ.get("RANK", "0") and not os.path.exists(marks + "failed"):
        if os.path.exists(marks + "steps") and os.path.getsize(marks + "steps") >= 12:
            open(marks + "failed", "w").close()
            raise ValueError("a bug of the recipe")
    time.sleep(float(os.environ.get("SLEEP_" + kind.upper(), 0.005)))
    return batch["x"] / 100
'''
WAIT_S = 180.0
SOON_S = 60.0  # what is a matter of seconds, on a machine that is busy


@dataclass(frozen=True)
class Place:
    """A recipe, a dataset, and a folder for marks, which runs beside each other may share."""

    folder: Path
    dataset: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "wide"

    def command(self, run: str, *more: str, program: tuple[str, ...] = ("-m", "train.run")) -> list[str]:
        arguments = [str(self.recipe), "--data", str(self.dataset), "--out", str(self.folder / run), "--device", "cpu"]
        return [sys.executable, *program, *arguments, "--checkpoint-seconds", "0.03", *more]

    def start(self, run: str, *more: str, program: tuple[str, ...] = ("-m", "train.run"), **env: str) -> Started:
        marks = self.folder / f"{run}-"
        process = subprocess.Popen(
            self.command(run, *more, program=program),
            env={**os.environ, "MARKS": str(marks), "OMP_NUM_THREADS": "1", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Started(process, self.folder / run, str(marks))

    @classmethod
    def made(cls, folder: Path) -> Place:
        (folder / "wide").mkdir()
        (folder / "wide" / "model.py").write_text(RECIPE)
        splits = {"train": numbered_files([[20, 13], [1, 17, 16]]), "val": numbered_files([[1000, 1100]], 100)}
        splits["test"] = numbered_files([[11, 12]], 3000)
        return cls(folder, write_dataset(folder / "dataset", SCHEMA, splits))

    def finish(self, run: str, *more: str, **env: str) -> str:
        started = self.start(run, *more, **env)
        code, said = started.end()
        assert code == 0, said
        return said


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[str]
    run: Path
    marks: str

    def count(self, kind: str) -> int:
        """Batches so far, of all the run's lives, that rank 0 has seen in steps or evaluations."""
        path = Path(self.marks + kind)
        return path.stat().st_size if path.exists() else 0

    def until(self, holds: Callable[[], Any]) -> bool:
        """Waits until that holds; False where the process has ended before."""
        end = time.monotonic() + WAIT_S
        while not holds():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.0005)
        return True

    def until_next(self, kind: str, number: int) -> bool:
        goal = self.count(kind) + number
        return self.until(lambda: self.count(kind) >= goal)

    def ranks(self) -> list[int]:
        """The processes of the launcher's ranks, in their order."""
        return sorted(_children(self.process.pid), key=lambda pid: int(_environment(pid)["RANK"]))

    def end(self, timeout_s: float = WAIT_S) -> tuple[int, str]:
        """The exit code, and all that was said."""
        said, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, said

    def stop(self, signum: int, pid: int | None = None) -> tuple[int, str]:
        """Sends a signal in the run's next step but two; what comes of it must come soon."""
        assert self.until_next("steps", 3)
        os.kill(pid or self.process.pid, signum)
        return self.end(SOON_S)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "status.json").read_text())
        return found


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _environment(pid: int) -> dict[str, str]:
    content = Path(f"/proc/{pid}/environ").read_text()
    return dict(entry.partition("=")[::2] for entry in content.split("\0") if entry)


def outcome(run: Path) -> tuple[bytes, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What must be the same however often a run was killed: metrics, weights, last checkpoint, test figures."""
    last = max((run / "checkpoints").glob("step-*.pt"))
    return (
        (run / "metrics.jsonl").read_bytes(),
        load_file(run / "model.safetensors"),
        torch.load(last, weights_only=True),
        json.loads((run / "report.json").read_text())["test"],
    )


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = outcome(one), outcome(other)
    assert mine[0] == theirs[0]
    (leaves, tree), (others, another) = tree_flatten(mine[1:]), tree_flatten(theirs[1:])
    assert tree == another
    for a, b in zip(leaves, others, strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        else:
            assert a == b
