"""How many threads a run has: by what a step is worth, never by what it took; and memory that is kept."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from penstock.console import Console
from penstock.recipe import find
from tests.train.test_distributed import RECIPE
from train import cpu
from train.distributed import World
from train.run import train

CPU = World(torch.device("cpu"))
TELLS_THREADS = """
import torch

metrics = {"threads": lambda outputs, batch: torch.full((len(outputs),), float(torch.get_num_threads()))}
"""
TOUCH = """
import sys
import torch
from train import cpu

if sys.argv[1] == "keep":
    cpu.keep_memory()
blocks = [torch.empty(10_000_000).fill_(1.0) for _ in range(3)]
del blocks
print(open("/proc/self/statm").read().split()[1])
"""


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with cpu.threads(8):
        yield


@pytest.mark.parametrize(
    ("flops", "num_parameters", "expected"),
    [
        (26e6, 51_000, 1),  # MNIST's mlp
        (366e6, 347_000, 4),  # its cnn
        (1e12, 0, 8),
        (0, 0, 1),
        (0, 10_000_000, 8),  # embeddings: the optimizer is all of the work
        (None, 0, 8),
    ],
)
def test_a_thread_for_each_100_mflop(flops: float | None, num_parameters: int, expected: int) -> None:
    assert cpu.num_threads(flops, num_parameters) == expected


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_what_the_environment_says_goes_before(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "8")
    assert cpu.num_threads(26e6, 0) == 8


@pytest.mark.parametrize(("flops_per_thread", "expected"), [(cpu.FLOPS_PER_THREAD, 1), (1.0, 8)])
def test_a_run_has_its_threads_in_every_evaluation_and_says_how_many(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flops_per_thread: float, expected: int
) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "model.py").write_text(RECIPE + TELLS_THREADS)
    recipe, run = find(str(tmp_path / "blocks")), tmp_path / "run"
    monkeypatch.setattr(cpu, "FLOPS_PER_THREAD", flops_per_thread)
    report = train(recipe, str(dataset), run, recipe.model().config(), CPU, None, Console(quiet=True)).report
    assert json.loads((run / "starts.jsonl").read_text())["num_threads"] == expected
    assert json.loads((run / "metrics.jsonl").read_text())["val_threads"] == report["test"]["threads"] == expected
    assert torch.get_num_threads() == 8


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_is_not_given_back_between_steps() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    pages = {
        which: int(subprocess.check_output([sys.executable, "-c", TOUCH, which], env=environment))
        for which in ("keep", "default")
    }
    assert (pages["keep"] - pages["default"]) * resource.getpagesize() > 100e6  # of 120 MB that were freed
