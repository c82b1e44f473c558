"""A recipe and a dataset that train in a moment, one for each module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.conftest import SCHEMA, numbered_files, write_dataset

RECIPE = """
import os
import time

from torch import nn
from train.classification import loss, metrics, predict
from train.config import TrainConfig

def config(model=None):
    return TrainConfig(model="linear", epochs=2, global_batch_size=16, lanes=4)

def build_model(config, card):
    return nn.Linear(3, 3)

def prepare(batch, card):
    time.sleep(float(os.environ.get("STEP_S", 0)))
    return batch["x"] / 100
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a recipe and a dataset for it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "linear").mkdir()
    (folder / "linear" / "model.py").write_text(RECIPE)
    splits = {"train": numbered_files([[67]]), "val": numbered_files([[10]], 100), "test": numbered_files([[23]], 200)}
    write_dataset(folder / "dataset", SCHEMA, splits)
    return folder


def arguments(folder: Path, run: str, *options: str) -> list[str]:
    places = ["--data", str(folder / "dataset"), "--out", str(folder / run)]
    return ["train", str(folder / "linear"), *places, "--device", "cpu", *options]
