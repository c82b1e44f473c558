"""What a configuration asks of the loop, in whole runs: clipping, averages of weights, a stop at a bad loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from penstock.console import Console
from penstock.errors import RunError
from penstock.recipe import find
from train.config import EarlyStopping, Optimizer, Schedule, TrainConfig
from train.distributed import World
from train.evaluate import evaluate
from train.feed import Feed
from train.run import train

RECIPE = """
import torch
from torch import nn
from train.classification import loss as cross_entropy, metrics, predict
from train.config import TrainConfig

def config(model=None):
    return TrainConfig(model=model or "linear", epochs=3, global_batch_size=16, lanes=4)

def build_model(config, card):
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))

def prepare(batch, card):
    return batch["x"] / 100

def loss(outputs, batch, config):
    losses, weight = cross_entropy(outputs, batch, config)
    if config.model == "bad":  # for one row, which comes once in an epoch
        losses = torch.where(batch["x"][:, 0].round() == 33, torch.inf, losses)
    return losses, weight
"""


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (tmp_path / "linear").mkdir()
    (tmp_path / "linear" / "model.py").write_text(RECIPE)
    made: TrainConfig = find(f"{tmp_path}/linear").model().config()
    return made


def run(dataset: Path, tmp_path: Path, name: str, config: TrainConfig) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    world = World(torch.device("cpu"))
    train(find(f"{tmp_path}/linear"), str(dataset), tmp_path / name, config, world, None, Console())
    return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def newest(folder: Path) -> dict[str, Any]:
    path = sorted((folder / "checkpoints").glob("*-*.pt"))[-1]
    return dict(torch.load(path, weights_only=True))


def test_averages_are_evaluated_and_exported_and_change_no_step(
    dataset: Path, tmp_path: Path, config: TrainConfig
) -> None:
    raw = run(dataset, tmp_path, "raw", config)
    averaged = run(dataset, tmp_path, "averaged", replace(config, ema_decay=0.9))
    assert [line["train_loss"] for line in raw] == [line["train_loss"] for line in averaged]
    assert all(one["val_loss"] != other["val_loss"] for one, other in zip(raw, averaged, strict=True))
    weights, averages, state = (
        exported(tmp_path / "raw"),
        exported(tmp_path / "averaged"),
        newest(tmp_path / "averaged"),
    )
    assert all(torch.equal(state["model"][name], value) for name, value in weights.items())
    assert all(torch.equal(averages[name], value) for name, value in zip(state["model"], state["ema"], strict=True))
    assert not torch.equal(weights["0.weight"], averages["0.weight"])


def test_a_clipped_step_is_as_long_as_it_may_be(dataset: Path, tmp_path: Path, config: TrainConfig) -> None:
    """One step of plain SGD: the weights move by the learning rate times the norm of the gradient."""
    sgd = replace(config.optimizer, name="sgd", lr=0.5, momentum=0.0)
    config = replace(config, steps=1, optimizer=sgd, schedule=replace(config.schedule, warmup=0.0))
    moved = {}
    for clip in (None, 0.01):
        run(dataset, tmp_path, f"{clip}", replace(config, clip_grad_norm=clip))
        torch.manual_seed(config.seed)
        start = find(f"{tmp_path}/linear").model().build_model(config, None).state_dict()
        weights = exported(tmp_path / f"{clip}")
        moved[clip] = torch.cat([(weights[name] - value).flatten() for name, value in start.items()])
    assert float(moved[0.01].norm()) == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert float(moved[None].norm()) > 0.02
    torch.testing.assert_close(moved[0.01] / moved[0.01].norm(), moved[None] / moved[None].norm(), rtol=0, atol=1e-4)


def test_a_run_stops_at_a_loss_that_is_not_finite_and_keeps_the_keys(
    dataset: Path, tmp_path: Path, config: TrainConfig
) -> None:
    with pytest.raises(RunError, match=r"the loss was not finite at step \d"):
        run(dataset, tmp_path, "run", replace(config, model="bad"))
    told = json.loads((tmp_path / "run" / "nonfinite.json").read_text())["steps"]
    assert told[-1]["step"] <= 5  # before the first epoch, of five steps, is evaluated and saved
    assert 33 in told[-1]["keys"]
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not list((tmp_path / "run" / "checkpoints").glob("*-*.pt"))


@pytest.mark.parametrize("ema_decay", [None, 0.3])
def test_a_run_stops_early_and_ends_with_its_best_weights(
    dataset: Path, tmp_path: Path, config: TrainConfig, ema_decay: float | None
) -> None:
    steep = replace(config, epochs=30, optimizer=Optimizer("sgd", lr=2.0), schedule=Schedule(decay="constant"))
    config = replace(steep, early_stopping=EarlyStopping(patience=2), ema_decay=ema_decay)
    lines = run(dataset, tmp_path, "run", config)
    losses = [line["val_loss"] for line in lines]
    assert len(losses) == losses.index(min(losses)) + 1 + 2 < 30
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["steps"] == lines[-1]["step"]

    recipe = find(f"{tmp_path}/linear").model()
    model = recipe.build_model(config, None)
    model.load_state_dict(exported(tmp_path / "run"))
    feed = Feed(str(dataset), "val", global_batch_size=64, shuffle=False)
    assert evaluate(model, recipe, feed, config, World(torch.device("cpu")))["loss"] == pytest.approx(min(losses))


def test_stopping_early_needs_a_split_to_evaluate(dataset: Path, tmp_path: Path, config: TrainConfig) -> None:
    config = replace(config, train_split="train+val", early_stopping=EarlyStopping())
    with pytest.raises(RunError, match="early_stopping: no split 'val' is left"):
        run(dataset, tmp_path, "run", config)
