"""One run on one, two, three and four ranks, with DDP and FSDP2, with and without accumulation: the same in the end."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from penstock.console import Console
from penstock.recipe import find
from tests.train import ranks
from tests.train.conftest import SCHEMA, numbered_files, write_dataset
from train import acceleration, random
from train.config import Optimizer, Schedule
from train.distributed import World
from train.evaluate import evaluate
from train.feed import Feed
from train.run import train

CPU = World(torch.device("cpu"))
RECIPE = '''
"""x's first value modulo 3: blocks as FSDP shards them, dropout, augmentation, a weight for each row."""
import os
from torch import nn
from penstock.errors import RunError
from train.classification import metrics, predict
from train.classification import loss as plain_loss
from train.config import Optimizer, TrainConfig

def config(model=None):
    sgd = Optimizer("sgd", lr=0.3)  # AdamW would not show the size of a gradient
    return TrainConfig(model="blocks", epochs=1, global_batch_size=24, lanes=12, optimizer=sgd)

class Blocks(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.into = nn.Sequential(nn.Linear(3, 7), norm)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(7, 7), nn.Tanh(), nn.Dropout(0.3)) for _ in range(2))
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        x = self.into(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)

def build_model(config, card):
    if config.model == "broken" and os.environ.get("RANK") == "2":
        raise RunError("this machine has no room")
    return Blocks(nn.BatchNorm1d(7) if config.model == "norm" else nn.Identity())

def augment(batch, config, draw, progress):
    return {**batch, "x": batch["x"] + draw(3) * (1 - progress)}

def prepare(batch, card):
    return batch["x"] / 50 - 1

def loss(outputs, batch, config):
    losses, weight = plain_loss(outputs, batch, config)
    by_label = 1 + batch["_label"]
    return losses * by_label, weight * by_label
'''
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{precision}-{parallel}-{accumulate}": (
        {"precision": precision, "accumulate": accumulate},
        {"parallel": parallel},
    )
    for precision in ("float64", "float32")
    for parallel in ("ddp", "fsdp")
    for accumulate in ((1, 3) if precision == "float64" else (1,))
}
SETTINGS = {
    "settings": {
        "epochs": 6,
        "ema_decay": 0.5,
        "clip_grad_norm": 0.05,
        "class_weights": [1.0, 2.0, 0.5],
        "early_stopping": {"patience": 1},
        "optimizer": asdict(Optimizer("sgd", lr=5.0)),
    },
    "muon": {"optimizer": asdict(Optimizer("muon", lr=0.02))},
}
KINDS |= {
    f"{name}-{parallel}-1": ({"precision": "float64", **config}, {"parallel": parallel})
    for name, config in SETTINGS.items()
    for parallel in ("ddp", "fsdp")
}
TOLERANCES = {"float64": 1e-10, "float32": 2e-5, "settings": 1e-10, "muon": 1e-10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and 75 rows for 12 lanes: the last of 4 batches has 3 rows, all of them in lanes of rank 3 of 4."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "blocks").mkdir()
    (folder / "blocks" / "model.py").write_text(RECIPE)
    splits = {
        "train": numbered_files([[20, 13], [1, 17, 24]]),
        "val": numbered_files([[10]], 100),
        "test": numbered_files([[11, 12]], 200),
    }
    write_dataset(folder / "data", SCHEMA, splits)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[int, Path]:
    """World size -> the folder of its runs, one of each kind. Two ranks are two torchruns, as on two nodes."""
    files = {}
    for size in (1, 2, 3, 4):
        runs = {
            str(folder / str(size) / name): {
                "recipe": str(folder / "blocks"),
                "data": str(folder / "data"),
                "config": config,
                "options": options,
            }
            for name, (config, options) in KINDS.items()
        }
        if size == 3:
            config = {"model": "norm", "precision": "float64", "steps": 3}  # torch refuses to norm a batch of one row
            norm = {"config": config, "options": {"parallel": "fsdp"}}
            where = {"recipe": str(folder / "blocks"), "data": str(folder / "data")}
            runs = {**errors(folder), **runs, str(folder / "norm"): {**where, **norm}}
        files[size] = folder / f"{size}.json"
        files[size].write_text(json.dumps(runs))
    ranks.finish(ranks.start_nodes(2, 1, files[2]))
    ranks.finish(ranks.start({size: files[size] for size in (3, 4)}))
    ranks.train_all(json.loads(files[1].read_text()), CPU)
    return {size: folder / str(size) for size in files}


def errors(folder: Path) -> dict[str, Any]:
    """Runs that fail before the first step, on all three ranks or on one: none may wait for ever, rank 0 says why."""
    lanes = (
        "expected a world size that divides the 4 lanes, and a rank below it, found rank 0 of 3; start 1 or 2 or 4 "
        "ranks, or choose lanes that 3 divides"
    )
    where = {"recipe": str(folder / "blocks"), "data": str(folder / "data")}
    return {
        str(folder / "lanes"): {**where, "config": {"lanes": 4}, "error": lanes},
        str(folder / "broken"): {**where, "config": {"model": "broken"}, "error": "rank 2: this machine has no room"},
        "/proc/run": {
            **where,
            "config": {},
            "error": "/proc/run: cannot be created (No such file or directory); choose another place",
        },
    }


def test_the_last_batch_leaves_ranks_with_padding_only(folder: Path) -> None:
    parts = [
        [len(Feed(str(folder / "data"), global_batch_size=24, lanes=12).plan(0).places(b, r, 4)) for r in range(4)]
        for b in range(4)
    ]
    assert parts == [[6, 6, 6, 6]] * 3 + [[0, 0, 0, 3]]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_makes_the_same_model(trained: dict[int, Path], size: int, kind: str) -> None:
    name = kind.partition("-")[0]
    tolerance = TOLERANCES[name]
    one, run = trained[1] / f"{name}-ddp-1", trained[size] / kind
    expected, found = (load_file(path / "model.safetensors") for path in (one, run))
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)
    for metrics, other in zip(lines(one), lines(run), strict=True):
        assert other == pytest.approx(metrics, rel=0, abs=tolerance)
    reports = [json.loads((path / "report.json").read_text()) for path in (one, run)]
    assert reports[1]["test"] == pytest.approx(reports[0]["test"], rel=0, abs=tolerance)
    assert reports[1]["test_rows"] == 23


def test_settings_that_could_differ_are_at_work(trained: dict[int, Path]) -> None:
    run = trained[2] / "settings-ddp-1"
    assert 1 < len(lines(run)) < 6  # it stopped early
    saved = torch.load(max((run / "checkpoints").glob("step-*.pt")), weights_only=True)
    assert any(not torch.equal(a, b) for a, b in zip(saved["ema"], saved["model"].values(), strict=True))


def test_all_ranks_evaluate_with_the_running_statistics_of_rank_0(trained: dict[int, Path], folder: Path) -> None:
    """Each rank's are of its own rows; rank 0's are saved, and the figures must be of the saved model."""
    recipe = find(str(folder / "blocks")).model()
    config = replace(recipe.config(), model="norm", precision="float64")
    model = acceleration.prepare(recipe.build_model(config, None), "float64", CPU.device)
    model.load_state_dict(load_file(folder / "norm" / "model.safetensors"))
    feed = Feed(str(folder / "data"), "test", global_batch_size=64, shuffle=False)
    report = json.loads((folder / "norm" / "report.json").read_text())
    assert report["test"] == pytest.approx(evaluate(model, recipe, feed, config, CPU), rel=0, abs=1e-10)


def test_a_step_follows_the_mean_over_the_rows_weighted(folder: Path, tmp_path: Path) -> None:
    recipe = find(str(folder / "blocks"))
    plain = replace(
        recipe.model().config(), precision="float64", steps=1, schedule=Schedule(warmup=0, decay="constant")
    )
    config = replace(plain, optimizer=Optimizer(name="sgd", lr=0.5, momentum=0.0))
    train(recipe, str(folder / "data"), tmp_path / "run", config, CPU, None, Console(quiet=True))
    found = load_file(tmp_path / "run" / "model.safetensors")

    torch.manual_seed(config.seed)
    model = recipe.model().build_model(config, None).double()
    random.seed_dropout_by_row(model)
    feed = Feed(str(folder / "data"), global_batch_size=24, lanes=12)
    batch = next(feed.epoch(0))
    keys = random.row_keys(config.seed, 0, torch.from_numpy(feed.plan(0).places(0)))
    for module in model.modules():
        if isinstance(module, random.Dropout):
            module.keys = keys
    x = batch["x"] + random.drawing(keys)(3)
    weight = 1.0 + batch["_label"]
    logits = model((x / 50 - 1).double())
    ((F.cross_entropy(logits, batch["_label"], reduction="none") * weight).sum() / weight.sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach() - 0.5 * parameter.grad, rtol=0, atol=1e-12)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
