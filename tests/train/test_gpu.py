"""What only a GPU shows: a CPU's results, copies that overlap, a step that never waits, a killed run that goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from penstock.console import Console
from penstock.recipe import Recipe, find
from tests.train.conftest import SCHEMA, numbered_files, write_dataset
from tests.train.processes import Place, assert_same
from tests.train.test_distributed import RECIPE
from tests.train.test_kills import kill
from train import run as run_module
from train.config import Options
from train.distributed import World
from train.feed import WEIGHT, Feed
from train.feed.device import to_device
from train.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
CPU, GPU = World(torch.device("cpu")), World(torch.device("cuda:0"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "model.py").write_text(RECIPE)
    return find(str(tmp_path / "blocks"))


def start(
    recipe: Recipe, dataset: Path, run: Path, world: World = GPU, options: Options | None = None, **config: Any
) -> dict[str, Any]:
    configured = replace(recipe.model().config(), **config)
    trained = train(recipe, str(dataset), run, configured, world, None, Console(quiet=True), options=options)
    return dict(trained.report)


def test_a_gpu_ends_where_a_cpu_does(recipe: Recipe, dataset: Path, tmp_path: Path) -> None:
    for name, world in (("cpu", CPU), ("gpu", GPU)):
        told = start(recipe, dataset, tmp_path / name, world, epochs=3, precision="float64", accumulate=3)
        assert told["device"] == str(world.device)
    # What the recipe computes in float32 before the model is rounded otherwise: products and sums at once.
    cpu, gpu = (load_file(tmp_path / name / "model.safetensors") for name in ("cpu", "gpu"))
    assert list(cpu) == list(gpu)
    for name, values in cpu.items():
        torch.testing.assert_close(gpu[name], values, rtol=0, atol=1e-6)


def test_precision_is_bf16_unless_said_otherwise(recipe: Recipe, dataset: Path, tmp_path: Path) -> None:
    auto = start(recipe, dataset, tmp_path / "auto")
    plain = start(recipe, dataset, tmp_path / "plain", precision="float32")
    assert (auto["precision"], plain["precision"]) == ("bf16", "float32")
    assert auto["test"]["loss"] != plain["test"]["loss"]
    assert auto["test"]["loss"] == pytest.approx(plain["test"]["loss"], rel=0.02)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_run_ends_where_a_plain_one_does(mode: Any, recipe: Recipe, dataset: Path, tmp_path: Path) -> None:
    """ "reduce-overhead" replays CUDA graphs, whose outputs the next step writes over."""
    plain = start(recipe, dataset, tmp_path / "plain", precision="float32", epochs=3)
    compiled = start(recipe, dataset, tmp_path / "compiled", GPU, Options(compile=mode), precision="float32", epochs=3)
    assert compiled["test"] == pytest.approx(plain["test"], rel=1e-3)


def test_batches_reach_a_busy_gpu_whole(tmp_path: Path) -> None:
    """The GPU is far behind the feed: memory that is used again too early would show."""
    url = str(write_dataset(tmp_path / "data", SCHEMA, {"train": numbered_files([[3000, 2000], [1000, 2192]])}))
    feed = Feed(url, global_batch_size=64, lanes=4, columns=SCHEMA.names)
    assert all(batch[name].is_pinned() for batch in feed.epoch(0) for name in ("id", "x", WEIGHT))
    expected = [sums(batch) for epoch in range(3) for batch in feed.epoch(epoch)]
    busy, found = torch.randn(2048, 2048, device=GPU.device), []
    for epoch in range(3):
        for batch in to_device(feed.epoch(epoch), GPU.device, feed.timings):
            assert batch["x"].is_cuda
            assert batch[WEIGHT].is_cuda
            busy = torch.tanh(busy @ busy)
            found.append(sums(batch))
    assert torch.equal(torch.stack(found).cpu(), torch.stack(expected))


def sums(batch: dict[str, Any]) -> torch.Tensor:
    """Exact: the values are multiples of a quarter."""
    return torch.stack([batch["x"].double().sum(), batch["id"].double().sum()])


def test_a_step_never_waits_for_the_gpu(
    recipe: Recipe, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = run_module.train_loop
    watched: list[int] = []

    def watching(*arguments: Any, **keywords: Any) -> None:
        *others, on_step, on_epoch = arguments
        steps_per_epoch = len(others[4])

        def strict(step: int, *more: Any) -> None:
            on_step(step, *more)
            is_last = step % steps_per_epoch == 0  # after it the losses are read
            torch.cuda.set_sync_debug_mode("default" if is_last else "error")
            watched.append(0 if is_last else 1)

        try:
            loop(*others, strict, on_epoch, **keywords)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(run_module, "train_loop", watching)
    start(recipe, dataset, tmp_path / "run", epochs=4, accumulate=2, clip_grad_norm=0.5, ema_decay=0.9)
    assert sum(watched) >= 8


def test_a_run_that_was_killed_ends_bit_for_bit_as_one_that_was_not(tmp_path: Path) -> None:
    place = Place.made(tmp_path)
    more = ("--device", "cuda", "--epochs", "10")
    place.finish("whole", *more)
    kills = sum(kill(place.start("killed", *more), *moment) for moment in (("step", 20), ("checkpoint", 5)))
    assert kills == 2
    place.finish("killed", *more)
    assert_same(place.folder / "whole", place.folder / "killed")
    assert json.loads((place.folder / "killed" / "report.json").read_text())["device"] == "cuda:0"
