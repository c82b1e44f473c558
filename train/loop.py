"""The training loop, whole: for each epoch, for each batch: forward, backward, step; then evaluate, log, save.

Nothing is called back. What a recipe decides (augment, prepare, loss) is called by name where it happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train import checkpoint, optimizers
from train.config import TrainConfig
from train.evaluate import evaluate
from train.feed import WEIGHT, Feed
from train.feed.device import to_device
from train.schedule import lr_factor

Progress = Callable[[int, int], None]  # steps done, steps of this epoch


@dataclass(frozen=True)
class EpochTimes:
    """One epoch's steps: how long they took, how long the loop waited for batches, and what the feed did meanwhile."""

    epoch: int
    rows: int
    seconds: float
    wait_seconds: float
    num_bytes: int
    stages: Mapping[str, float]  # train.feed.timing.STAGES -> seconds, summed over the feed's threads

    @property
    def data_stall(self) -> float:
        """The share of the time in which the trainer stood still for data, 0 to 1."""
        return self.wait_seconds / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class EpochResult:
    metrics: dict[str, float]  # the same on every run of the same configuration
    times: EpochTimes


def train(
    model: nn.Module,
    recipe: Any,
    config: TrainConfig,
    train_feed: Feed,
    val_feed: Feed | None,
    device: torch.device,
    run_folder: Path,
    on_step: Progress,
    on_epoch: Callable[[EpochResult], None],
) -> None:
    """Trains `model` in place from the newest checkpoint of the run folder, or from the start, to the last epoch."""
    (optimizer,) = optimizers.build(model, config.optimizer)
    done = 0
    if (saved := checkpoint.latest(run_folder)) is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        done = saved["position"]["epoch"]

    steps_per_epoch = len(train_feed)
    num_steps = config.epochs * steps_per_epoch
    augment = getattr(recipe, "augment", None)
    for epoch in range(done, config.epochs):
        model.train()
        started = time.perf_counter()
        waited, rows = 0.0, 0
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        weight_sum = torch.zeros((), dtype=torch.float64, device=device)
        train_feed.timings.clear()
        batches = to_device(train_feed.epoch(epoch), device, train_feed.timings)
        for i in range(steps_per_epoch):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            step = epoch * steps_per_epoch + i

            for group in optimizer.param_groups:
                group["lr"] = config.optimizer.lr * lr_factor(config.schedule, step, num_steps)
            if augment is not None:
                generator = torch.Generator().manual_seed(config.seed * num_steps + step)
                batch = augment(batch, config, generator, step / num_steps)
            outputs = model(recipe.prepare(batch, train_feed.card))
            loss, weight = recipe.loss(outputs, batch, config)  # (B,), (B,)
            loss, weight = (loss * batch[WEIGHT]).sum(), (weight * batch[WEIGHT]).sum()
            (loss / weight).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            rows += len(batch[WEIGHT])
            loss_sum += loss.detach()
            weight_sum += weight.detach()
            on_step(i + 1, steps_per_epoch)
        batches.close()
        fed = train_feed.timings
        times = EpochTimes(epoch + 1, rows, time.perf_counter() - started, waited, fed.num_bytes, dict(fed.seconds))

        metrics = {"epoch": epoch + 1, "train_loss": float(loss_sum / weight_sum)}
        if val_feed is not None:
            metrics |= {
                f"val_{name}": value for name, value in evaluate(model, recipe, val_feed, config, device).items()
            }
        on_epoch(EpochResult(metrics, times))
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.save(run_folder, {"epoch": epoch + 1}, state)
