"""The examples as a user runs them, without network: the loss falls, and every epoch has each row once, also where a
run goes on from the middle of one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
ROWS = 1242  # in the training split
Epoch = tuple[int, int, int, str]  # step at its end, rows, different keys, mean loss


def run(example: str, *arguments: object) -> list[Epoch]:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / example, *map(str, arguments)],
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = re.findall(r"step (\d+): (\d+) rows, (\d+) keys, loss ([\d.]+)", done.stdout)
    return [(int(step), int(rows), int(keys), loss) for step, rows, keys, loss in told]


def assert_learns_from_each_row_once(epochs: list[Epoch]) -> None:
    assert [epoch[:3] for epoch in epochs] == [(20, ROWS, ROWS), (40, ROWS, ROWS), (60, ROWS, ROWS)]
    losses = [float(loss) for *_, loss in epochs]
    assert losses[0] > 2 * losses[1] > 2 * losses[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "needs"),
    [("plain_pytorch.py", "torch"), ("keras_fit.py", "keras"), ("tensorflow_data.py", "tensorflow")],
)
def test_loops(example: str, needs: str, built_digits: Path, tmp_path: Path) -> None:
    if find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    whole = run(example, built_digits, tmp_path / "whole.keras")
    assert_learns_from_each_row_once(whole)
    begun = run(example, built_digits, tmp_path / "begun.keras", 30)
    rest = run(example, built_digits, tmp_path / "begun.keras")
    assert [epoch[:3] for epoch in begun + rest] == [(20, ROWS, ROWS), (30, 640, 640), (40, 602, 602), (60, ROWS, ROWS)]
    assert rest[-1] == whole[-1]


@pytest.mark.soak
@pytest.mark.parametrize("example", ["lightning_fit.py", "hugging_face_trainer.py"])
def test_trainers(example: str, built_digits: Path, tmp_path: Path) -> None:
    whole = run(example, built_digits, tmp_path)
    assert_learns_from_each_row_once(whole)
    for step in (60, 50, 40):  # as if the run had been killed after step 30
        for checkpoint in tmp_path.glob(f"*{step}*"):
            shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    rest = run(example, built_digits, tmp_path)
    assert [epoch[:3] for epoch in rest] == [(40, 602, 602), (60, ROWS, ROWS)]
    assert rest[-1] == whole[-1]
